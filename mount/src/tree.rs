//! A mounted tree without a name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mica_core::Result;
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags};

use crate::error::failed;
use crate::helper::Server;
use crate::overlay::descriptor_path;
use crate::scratch::{Scratch, make_private, open_dir};
use crate::writes::Writes;
use crate::{Attached, bind, sys};

/// A mounted tree, which is gone when this value is dropped and nobody has anything in it open.
///
/// It is in no mount table (with [`Calls::Classic`](crate::Calls::Classic) it is, at a fresh directory). Files in it can be opened,
/// and another process can be handed its [`root`](Self::root).
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    writes: Writes,
    root: OwnedFd,
    place: Option<Scratch>,
    server: Option<Server>,
}

impl Tree {
    pub(crate) fn detached(root: OwnedFd, server: Option<Server>, writes: Writes) -> Self {
        Self { path: descriptor_path(root.as_fd()), root, place: None, server, writes }
    }

    pub(crate) fn attached(root: OwnedFd, place: Scratch, server: Option<Server>, writes: Writes) -> Self {
        Self { path: place.at().to_owned(), root, place: Some(place), server, writes }
    }

    /// A second mount of what is mounted at `at`, such as a live writable tree: the same files, another mount. What is
    /// mounted below does not come along. Needs Linux 5.12.
    pub fn copy_of(at: &Path) -> Result<Self> {
        Ok(Self::from(bind::clone(at, None)?))
    }

    /// The root of the tree: a descriptor of the `O_PATH` kind, for the `…at` calls.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A path that leads to the root of the tree while this value lives, in this process. Another process may not
    /// have what it names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that serves the tree, where one does.
    pub fn helper_pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Server::pid)
    }

    /// Forbids on it what these flags say, such as setuid programs and devices. Needs Linux 5.12.
    pub fn restrict(&self, to: MountAttrFlags) -> Result<()> {
        let attributes = sys::Attributes { attr_set: u64::from(to.bits()), ..times(to) };
        sys::mount_setattr(self.root(), false, &attributes).map_err(|e| failed("restrict a mount", e, ""))
    }

    /// Gives the tree a name: the existing directory `at`, whose last component is no link. What is mounted below it
    /// later does not spread to other mount namespaces. After an error the tree is gone.
    pub fn attach(self, at: &Path) -> Result<Attached> {
        // In an order in which a failure ends the mount before it waits for the server.
        let Self { server, writes, place, root, .. } = self;
        let doing = || format!("attach a tree at '{}'", at.display());
        let Some(place) = place else {
            rustix::mount::move_mount(&root, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(|e| failed(doing(), e, ""))?;
            let attached = Attached::new(at, root, server, writes);
            bind::make_private(attached.root(), &doing())?;
            return Ok(attached);
        };
        // Not moved: the kernel refuses that where the parent of a mount is shared.
        rustix::mount::mount_bind_recursive(place.at(), at).map_err(|e| failed(doing(), e, ""))?;
        let root = open_dir(CWD.as_fd(), at).inspect_err(|_| {
            let _ = rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        })?;
        let attached = Attached::new(at, root, server, writes);
        make_private(at)?;
        place.close()?;
        Ok(attached)
    }

    /// Lets go of the tree, and reports what could not be undone. Before, a file system of the tree's own has all its writes
    /// done, and one that was lost since the tree was made is an error, too.
    pub fn close(self) -> Result<()> {
        let Self { root, place, server, writes, .. } = self;
        let written = writes.finish();
        drop(root);
        let unmounted = place.map_or(Ok(()), Scratch::close);
        let ended = server.map_or(Ok(()), Server::close);
        written.and(unmounted).and(ended)
    }
}

/// How times of access are kept is one value of several bits, of which all must be cleared to set one.
fn times(to: MountAttrFlags) -> sys::Attributes {
    let times = MountAttrFlags::MOUNT_ATTR__ATIME;
    let clear = if to.intersects(times) { times.bits() } else { 0 };
    sys::Attributes { attr_clr: u64::from(clear), ..sys::UNCHANGED }
}

impl From<OwnedFd> for Tree {
    /// Takes over a detached mount that came from elsewhere, such as over a socket.
    fn from(root: OwnedFd) -> Self {
        Self::detached(root, None, Writes::default())
    }
}
