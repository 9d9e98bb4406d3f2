//! Removal of a tree, whatever it holds.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Dir, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Result, on};
use crate::walk::open_dir;

/// Removes the file or the whole tree of this name in `dir`. What is gone already is no error.
pub fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    one(dir, name).map_err(|error| error.below(name))
}

/// Removes everything in a directory, but not itself.
pub fn remove_children(dir: BorrowedFd<'_>) -> Result<()> {
    let mut entries = Dir::new(open_dir(dir, b".")?).map_err(on("read"))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(on("read"))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            remove(dir, name)?;
        }
    }
    Ok(())
}

fn one(dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match unlink(dir, name, AtFlags::empty()) {
        // A directory answers EISDIR on Linux, EPERM by POSIX; EPERM also comes from an immutable file.
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other.map_err(on("remove")),
    }
    match open_dir(dir, name) {
        Ok(child) => {
            make_mutable(child.as_fd());
            remove_children(child.as_fd())?;
            unlink(dir, name, AtFlags::REMOVEDIR).or_else(|_| {
                make_mutable(dir);
                unlink(dir, name, AtFlags::REMOVEDIR)
            })
        }
        Err(_) => {
            make_mutable(dir);
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(file) = fs::openat(dir, name, flags, Mode::empty()) {
                make_mutable(file.as_fd());
            }
            unlink(dir, name, AtFlags::empty())
        }
    }
    .map_err(on("remove"))
}

fn unlink(dir: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, flags) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// Clears the immutable and the append-only flag, with which even root cannot remove; a container may have set them.
/// Where that fails the removal that follows says why.
fn make_mutable(file: BorrowedFd<'_>) {
    let stuck = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = fs::ioctl_getflags(file)
        && flags.intersects(stuck)
    {
        let _ = fs::ioctl_setflags(file, flags - stuck);
    }
}
