//! A fresh directory with something mounted on it, undone when dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mica_core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::error::failed;

/// A directory that this value made and removes, and the mounts on it that it detaches before.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    mounted: bool,
}

impl Scratch {
    /// Makes a directory below `parent` that only its owner can enter, with a name that no live process uses.
    pub(crate) fn make(parent: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = std::path::absolute(parent).map_err(Error::io(|| "find the scratch directory"))?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("mount-{}-{number}", std::process::id()));
            match rustix::fs::mkdir(&dir, Mode::RWXU) {
                Ok(()) => return Ok(Self { dir, mounted: false }),
                Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(Error::io(|| format!("create '{}'", dir.display()))(e.into())),
            }
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs what mounts something on the directory, and keeps that private: nothing that happens below it spreads.
    pub(crate) fn mounted_by(&mut self, mount: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        mount(&self.dir)?;
        self.mounted = true;
        make_private(&self.dir)
    }

    /// Attaches a detached mount here.
    pub(crate) fn attach(&mut self, mount: BorrowedFd<'_>) -> Result<()> {
        self.mounted_by(|dir| {
            rustix::mount::move_mount(mount, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(|e| failed(format!("attach at '{}'", dir.display()), e, ""))
        })
    }

    /// The root of what is mounted here.
    pub(crate) fn root(&self) -> Result<OwnedFd> {
        open_dir(CWD.as_fd(), &self.dir)
    }

    /// Undoes everything, and reports what could not be.
    pub(crate) fn close(mut self) -> Result<()> {
        self.undo().map_err(Error::io(|| format!("unmount '{}'", self.dir.display())))
    }

    fn undo(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.mounted) {
            rustix::mount::unmount(&self.dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
        match std::fs::remove_dir(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

/// Ends the exchange of mounts between this mount and others. On a shared parent a mount is born shared.
pub(crate) fn make_private(at: &Path) -> Result<()> {
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE)
        .map_err(|e| failed(format!("make '{}' private", at.display()), e, ""))
}

/// Opens a directory for naming things below it.
pub(crate) fn open_dir(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(base, path, flags, Mode::empty())
        .map_err(|e| Error::io(|| format!("open directory '{}'", path.display()))(e.into()))
}
