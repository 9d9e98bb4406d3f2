//! A mounted tree that has a name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mica_core::{Error, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::helper::Server;
use crate::overlay::descriptor_path;
use crate::writes::Writes;

/// A tree at a directory, detached from there when this value is dropped.
///
/// Detaching is lazy: the name is free at once, and the mount ends when nobody has anything in it open.
#[derive(Debug)]
pub struct Attached {
    at: PathBuf,
    writes: Writes,
    // Before the server, which ends when the mount has.
    mount: Mount,
    server: Option<Server>,
}

impl Attached {
    pub(crate) fn new(at: &Path, root: OwnedFd, server: Option<Server>, writes: Writes) -> Self {
        Self { at: at.to_owned(), mount: Mount { root, live: true }, server, writes }
    }

    /// Where it is attached.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The root of the tree, also when something else covers its name.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.mount.root.as_fd()
    }

    /// The process that serves the tree, where one does.
    pub fn helper_pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
    }

    /// A descriptor of that process, which becomes readable when it ends, also for who reaps it.
    pub fn helper_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(Server::pidfd)
    }

    /// What that process wrote to its standard error, or the end of that.
    pub fn helper_said(&self) -> String {
        self.server.as_ref().map(Server::said).unwrap_or_default()
    }

    /// Lets go of it, so that others can unmount it, but keeps watching the process that serves it.
    pub fn loosen(mut self) -> Loose {
        self.mount.live = false;
        Loose { at: std::mem::take(&mut self.at), server: self.server.take() }
    }

    /// Lets it live as long as its mount namespace. Its helper, if it has one, is to be reaped by the caller.
    pub fn leave(mut self) {
        self.mount.live = false;
        if let Some(server) = self.server.take() {
            server.leave();
        }
    }

    /// Detaches the tree, and reports what could not be undone. Before, a file system of the tree's own has all its writes
    /// done, and one that was lost since the tree was made is an error, too.
    pub fn close(self) -> Result<()> {
        let Self { at, mut mount, server, writes } = self;
        let written = writes.finish();
        let detached =
            mount.detach().map_err(|e| Error::io(|| format!("unmount '{}'", at.display()))(e.into()));
        drop(mount);
        let ended = server.map_or(Ok(()), Server::close);
        written.and(detached).and(ended)
    }
}

/// A tree that has a name, and that anybody can unmount. It stays when this value is dropped.
#[derive(Debug)]
pub struct Loose {
    at: PathBuf,
    server: Option<Server>,
}

impl Loose {
    /// A descriptor of the process that serves the tree, where one does, which becomes readable when that ends.
    pub fn helper_pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(Server::pidfd)
    }

    /// Detaches what is mounted at the name of the tree.
    pub fn detach(&self) -> Result<()> {
        rustix::mount::unmount(&self.at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|e| Error::io(|| format!("unmount '{}'", self.at.display()))(e.into()))
    }

    /// Waits for the end of the process that serves it, and reports how it ended.
    pub fn close(mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::close)
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        let _ = self.server.take().map(Server::leave);
    }
}

#[derive(Debug)]
struct Mount {
    root: OwnedFd,
    live: bool,
}

impl Mount {
    fn detach(&mut self) -> Result<(), Errno> {
        if !std::mem::take(&mut self.live) {
            return Ok(());
        }
        // By descriptor, since something else may be mounted over the name by now.
        match rustix::mount::unmount(descriptor_path(self.root.as_fd()), UnmountFlags::DETACH) {
            // Somebody unmounted it before.
            Err(Errno::INVAL) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.detach();
    }
}
