//! A fresh directory with something mounted on it, undone when dropped.
//!
//! ```text
//! SCRATCH/mount-PID-NUMBER         held by flock by whoever made it
//! SCRATCH/mount-PID-NUMBER/tree    the mount point
//! ```
//!
//! What nobody holds was left by a process that was killed, and [`sweep`] undoes it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mica_core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags};

use crate::error::failed;

/// How the names of the directories begin that this crate makes in a scratch directory.
pub const SCRATCH_PREFIX: &str = "mount-";

const TREE: &str = "tree";
const DETACH: UnmountFlags = UnmountFlags::DETACH.union(UnmountFlags::NOFOLLOW);

/// A directory that this value made and removes, and the mounts in it that it detaches before.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    at: PathBuf,
    mounted: bool,
    _held: File,
}

impl Scratch {
    /// Makes a directory below `parent` that only its owner can enter, with a name that nobody uses.
    pub(crate) fn make(parent: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let parent = std::path::absolute(parent).map_err(Error::io(|| "find the scratch directory"))?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("{SCRATCH_PREFIX}{}-{number}", std::process::id()));
            let failed = || format!("create '{}'", dir.display());
            match rustix::fs::mkdir(&dir, Mode::RWXU).map_err(io::Error::from).and_then(|()| hold(&dir)) {
                Ok(Some(held)) => return Ok(Self { at: dir.join(TREE), dir, mounted: false, _held: held }),
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(failed)(e)),
            }
        }
    }

    /// Where something is mounted.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// Runs what mounts something on the mount point, and keeps that private: nothing that happens below it spreads.
    pub(crate) fn mounted_by(&mut self, mount: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        mount(&self.at)?;
        self.mounted = true;
        make_private(&self.at)
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
        open_dir(CWD.as_fd(), &self.at)
    }

    /// Undoes everything, and reports what could not be.
    pub(crate) fn close(mut self) -> Result<()> {
        self.undo().map_err(Error::io(|| format!("unmount '{}'", self.at.display())))
    }

    fn undo(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.mounted) {
            rustix::mount::unmount(&self.at, DETACH)?;
        }
        remove_dir(&self.at)?;
        remove_dir(&self.dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

/// Detaches and removes what processes that are gone have left in a scratch directory.
pub fn sweep(scratch: &Path) -> Result<()> {
    let failed = || format!("clean up '{}'", scratch.display());
    for entry in std::fs::read_dir(scratch).map_err(Error::io(failed))? {
        let entry = entry.map_err(Error::io(failed))?;
        if entry.file_name().as_encoded_bytes().starts_with(SCRATCH_PREFIX.as_bytes()) {
            let dir = entry.path();
            undo_if_left(&dir).map_err(Error::io(|| format!("clean up '{}'", dir.display())))?;
        }
    }
    Ok(())
}

fn undo_if_left(dir: &Path) -> io::Result<()> {
    let held = match File::open(dir) {
        // Its maker was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        held => held?,
    };
    match held.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(e),
        Ok(()) => {}
    }
    let at = dir.join(TREE);
    loop {
        match rustix::mount::unmount(&at, DETACH) {
            Ok(()) => {}
            // Nothing is mounted there, in this mount namespace at least; in another one it goes with the directory.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(e.into()),
        }
    }
    remove_dir(&at)?;
    remove_dir(dir)
}

/// Takes a new directory before anybody takes it for a left one, and makes the mount point; `None` where that came first.
fn hold(dir: &Path) -> io::Result<Option<File>> {
    let made = File::open(dir).and_then(|held| {
        held.lock()?;
        rustix::fs::mkdirat(&held, TREE, Mode::RWXU)?;
        Ok(held)
    });
    match made {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        held => held.map(Some),
    }
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
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
