//! What the driver needs of the host and of the file system of its root: found out by using it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use mica_core::{Error, Result};
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

/// Fails with `Unavailable` where the driver cannot work. `place` is an empty directory in the root, for scratch.
pub(super) fn check(place: &Path, root: &File) -> Result<()> {
    fuse()?;
    let name = mica_tree::file_system(root.as_fd()).unwrap_or_else(|_| "this file system".to_owned());
    branch(place).map_err(|why| Error::Unavailable {
        reason: format!("{name} cannot hold branches: {why}; use a directory on ext4, xfs, btrfs or tmpfs"),
    })
}

fn fuse() -> Result<()> {
    let opened = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let reason = match opened {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "there is no /dev/fuse; load the module with 'modprobe fuse'".to_owned()
        }
        Err(e) => format!("/dev/fuse cannot be opened: {e}"),
    };
    Err(Error::Unavailable { reason })
}

/// A branch holds hard links, for a file with several names that is copied up, and every attribute of what is copied.
fn branch(place: &Path) -> Result<(), String> {
    let (file, link) = (place.join("file"), place.join("link"));
    File::create(&file).map_err(|e| format!("no file can be made ({e})"))?;
    fs::hard_link(&file, link).map_err(|e| format!("it keeps no hard links ({e})"))?;
    match rustix::fs::setxattr(&file, "trusted.mica", b"y", XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => Err("'trusted.' attributes need root outside of user namespaces".to_owned()),
        Err(e) => Err(format!("it keeps no 'trusted.' extended attributes ({e})")),
    }
}
