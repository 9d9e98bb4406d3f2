//! Volumes: directories that outlive containers, filled at first use with what the image has at that place.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::{Container, Source, names};
use crate::{Engine, Error, Result, Root, Transaction, root};

/// Refuses what no volume may be called.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if names::is_valid(name) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "'{}' is no volume name (only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed); a host directory is an absolute path",
        name.escape_debug()
    )))
}

fn directory(root: &Root, name: &str) -> PathBuf {
    root.volumes().join(name)
}

/// The files of a volume. The directory exists once it was used.
pub(crate) fn data(root: &Root, name: &str) -> PathBuf {
    directory(root, name).join("_data")
}

/// Makes the volume ready for its use at `target` of a container whose root file system is `rootfs`: one that is new
/// gets what the image has there. A crash on the way leaves it new.
pub(crate) fn prepare(root: &Root, name: &str, rootfs: BorrowedFd<'_>, target: &Path) -> Result<PathBuf> {
    let data = data(root, name);
    if data.exists() {
        return Ok(data);
    }
    let _lock = root.long_lock(&format!("volume-{name}"))?;
    if !data.exists() {
        make(root, name, rootfs, target)?;
    }
    Ok(data)
}

fn make(root: &Root, name: &str, rootfs: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let directory = directory(root, name);
    let failed = || format!("create volume '{name}'");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(Error::io(failed))?;
    let fresh = directory.join("_new");
    root::remove_tree(&fresh)?;
    DirBuilder::new().mode(0o755).create(&fresh).map_err(Error::io(failed))?;
    fill(rootfs, target, &fresh).map_err(Error::doing(failed))?;
    mica_core::failpoint::hit("volume.filled").map_err(Error::io(failed))?;
    fs::rename(&fresh, data(root, name)).map_err(Error::io(failed))
}

/// Copies the directory that the image has at `target`, with its own owner and mode.
fn fill(rootfs: BorrowedFd<'_>, target: &Path, fresh: &Path) -> Result<()> {
    let Some(from) = image_directory(rootfs, target)? else { return Ok(()) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = || format!("copy '{}' of the image", target.display());
    let to = openat(CWD, fresh, flags, Mode::empty()).map_err(|e| Error::io(failed)(e.into()))?;
    mica_tree::copy(from.as_fd(), to.as_fd(), 1).map_err(|e| Error::io(failed)(io::Error::other(e)))
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

impl Engine {
    /// Takes the volumes that were made for this container alone out of the way; they are deleted with the
    /// transaction.
    pub(super) fn discard_volumes(&self, tx: &Transaction<'_>, container: &Container) -> Result<()> {
        for mount in &container.record().settings.mounts {
            let Source::Volume { name, anonymous: true } = &mount.source else { continue };
            let from = directory(self.root(), name);
            let to = tx.staging().join(format!("volume-{name}"));
            match fs::rename(&from, &to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(|| format!("remove volume '{name}'"))(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
