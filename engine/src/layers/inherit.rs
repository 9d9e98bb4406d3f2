//! Directories that a tarball does not list although it has something in them.
//!
//! In a tree that holds one layer only they had to be made from nothing, and they hide the owner, the mode and the
//! attributes that the layers below have for them. Once the parent is known they get those.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use mica_core::{Committed, Detached, Layer, MountOptions, Store};
use mica_mount::Held;
use rustix::fs::{Mode, OFlags, ResolveFlags, XattrFlags, fgetxattr, fremovexattr, fsetxattr, openat2};
use rustix::io::Errno;

use super::fill::Filled;
use crate::{Engine, Error, Result};

/// Overlayfs' mark of a directory that hides what is below. It may be seen on a directory of the parent, and is its own.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

impl Engine {
    /// Gives the implied directories of a new layer what its parent has for them.
    pub(crate) fn inherit(
        &self,
        store: &Store,
        layer: &Layer<Detached>,
        parent: Option<&Layer<Committed>>,
        filled: &Filled,
    ) -> Result<()> {
        let Some(parent) = parent.filter(|_| !filled.implied.is_empty() && !filled.opaque) else {
            return Ok(());
        };
        let mounter = self.mounter();
        let options = MountOptions::default();
        let below = Held::open(store.read(parent, &options)?, &mounter)?;
        let tree = Held::open(store.apply(layer, &options)?, &mounter)?;
        for path in &filled.implied {
            copy(below.tree().root(), tree.tree().root(), path)
                .map_err(Error::io(|| format!("copy the attributes of '{}'", path.escape_ascii())))?;
        }
        tree.close()?;
        below.close()?;
        Ok(())
    }
}

fn copy(below: BorrowedFd<'_>, tree: BorrowedFd<'_>, path: &[u8]) -> std::io::Result<()> {
    let (Some(from), Some(to)) = (open(below, path)?, open(tree, path)?) else {
        return Ok(());
    };
    let marks = OPAQUE.map(|name| mark(to.as_fd(), name));
    mica_tree::copy_attributes(from.as_fd(), to.as_fd()).map_err(std::io::Error::other)?;
    for (name, had) in OPAQUE.iter().zip(marks) {
        match (had?, mark(to.as_fd(), name)?) {
            (Some(value), _) => fsetxattr(&to, *name, &value, XattrFlags::empty())?,
            (None, Some(_)) => fremovexattr(&to, *name)?,
            (None, None) => {}
        }
    }
    Ok(())
}

/// The directory at this path, if it is one and no link is on the way.
fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn mark(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = [0; 16];
    match fgetxattr(dir, name, &mut value) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}
