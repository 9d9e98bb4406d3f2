//! What a new volume gets from the image of the container that uses it first.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, syncfs};
use rustix::io::Errno;

use crate::volumes::Volume;
use crate::{Error, Result, Root, root};

/// Makes a volume ready for its use at `target` of a container whose root file system is `rootfs`: one that is new
/// gets what the image has there. A crash on the way leaves it new.
pub(crate) fn prepare(root: &Root, name: &str, rootfs: BorrowedFd<'_>, target: &Path) -> Result<PathBuf> {
    let failed = || format!("fill volume '{name}'");
    let volume = Volume::read_or_make(root, name)?;
    if volume.is_filled() {
        return Ok(volume.data());
    }
    // Held by its descriptor, until this returns.
    let directory = File::open(volume.dir()).map_err(Error::io(failed))?;
    directory.lock().map_err(Error::io(failed))?;
    let volume = Volume::read_or_make(root, name)?;
    let data = volume.data();
    if !volume.is_filled() {
        fill(&volume, rootfs, target).map_err(Error::doing(failed))?;
        volume.set_filled()?;
    }
    Ok(data)
}

/// Copies the directory that the image has at `target`, with its own owner and mode. What somebody put into the volume
/// before stays instead.
fn fill(volume: &Volume, rootfs: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let (fresh, data) = (volume.dir().join("_new"), volume.data());
    let failed = || format!("create '{}'", fresh.display());
    root::remove_tree(&fresh)?;
    DirBuilder::new().mode(0o755).create(&fresh).map_err(Error::io(failed))?;
    if let Some(from) = image_directory(rootfs, target)? {
        let to = File::open(&fresh).map_err(Error::io(failed))?;
        let failed = || format!("copy '{}' of the image", target.display());
        mica_tree::copy(from.as_fd(), to.as_fd(), 1).map_err(io::Error::from).map_err(Error::io(failed))?;
        if !volume.is_anonymous() {
            syncfs(&to).map_err(io::Error::from).map_err(Error::io(failed))?;
        }
    }
    mica_core::failpoint::hit("volume.filled").map_err(Error::io(failed))?;
    match fs::rename(&fresh, &data) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => root::remove_tree(&fresh),
        renamed => renamed.map_err(Error::io(failed)),
    }
}

fn image_directory(rootfs: BorrowedFd<'_>, target: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(rootfs, target, flags, Mode::empty(), resolve) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(e) => Err(Error::io(|| format!("open '{}' of the image", target.display()))(e.into())),
    }
}
