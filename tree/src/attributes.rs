//! Owner, mode, extended attributes and times.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Result, on};

/// Gives the file `to` the owner, the mode, the extended attributes and the times that the file `from` has. Attributes
/// that `to` has besides stay. Both are open for more than their path.
pub fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = fs::fstat(from).map_err(on("read the metadata of"))?;
    set_open(from, to, &stat)
}

/// The same for a file of which the metadata is known.
pub(crate) fn set_open(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
        .map_err(on("chown"))?;
    // After the owner, which clears setuid and file capabilities.
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).map_err(on("chmod"))?;
    let list = |buffer: &mut Vec<u8>| fs::flistxattr(from, rustix::buffer::spare_capacity(buffer));
    for name in names(list)? {
        let get = |buffer: &mut Vec<u8>| fs::fgetxattr(from, &*name, rustix::buffer::spare_capacity(buffer));
        if let Some(value) = grow(get).map_err(on("read an attribute of"))? {
            fs::fsetxattr(to, &*name, &value, XattrFlags::empty()).map_err(on("set an attribute of"))?;
        }
    }
    fs::futimens(to, &times(stat)).map_err(on("set the times of"))
}

/// The same for two files that are open for their path alone: links, devices, pipes and sockets cannot be opened without a
/// side effect.
pub fn copy_path_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let stat = fs::fstat(from).map_err(on("read the metadata of"))?;
    set_path(from, to, &stat)
}

/// The same for a file of this name in two directories, of which the metadata is known.
pub(crate) fn set_named(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
    let path = |dir: BorrowedFd<'_>| {
        fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let (from, to) = (path(from).map_err(on("open"))?, path(to).map_err(on("open"))?);
    set_path(from.as_fd(), to.as_fd(), stat)
}

fn set_path(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fs::chownat(to, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(on("chown"))?;
    // The link in /proc leads to the very inode, also when that is a symbolic link (proc(5)).
    let source = format!("/proc/self/fd/{}", from.as_raw_fd());
    let target = format!("/proc/self/fd/{}", to.as_raw_fd());
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        fs::chmod(&target, Mode::from_raw_mode(stat.st_mode)).map_err(on("chmod"))?;
    }
    let list = |buffer: &mut Vec<u8>| fs::listxattr(&source, rustix::buffer::spare_capacity(buffer));
    for name in names(list)? {
        let get =
            |buffer: &mut Vec<u8>| fs::getxattr(&source, &*name, rustix::buffer::spare_capacity(buffer));
        if let Some(value) = grow(get).map_err(on("read an attribute of"))? {
            fs::setxattr(&target, &*name, &value, XattrFlags::empty()).map_err(on("set an attribute of"))?;
        }
    }
    fs::utimensat(fs::CWD, &target, &times(stat), AtFlags::empty()).map_err(on("set the times of"))
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

fn names(list: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>) -> Result<Vec<Vec<u8>>> {
    let joined = grow(list).map_err(on("list the attributes of"))?.unwrap_or_default();
    // xfs shows ACLs once more, in a form of its own that means nothing to others (linux/fs/xfs/xfs_xattr.c).
    let own = |name: &&[u8]| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_");
    Ok(joined.split(|&byte| byte == 0).filter(own).map(<[u8]>::to_vec).collect())
}

/// Calls with a larger buffer until the answer fits; `None` where there is no such attribute, or none at all.
fn grow(
    mut call: impl FnMut(&mut Vec<u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut buffer = Vec::with_capacity(256);
    loop {
        match call(&mut buffer) {
            Ok(_) => return Ok(Some(buffer)),
            // The kernel allows 64 KiB for a value and for the list of names (xattr(7)).
            Err(Errno::RANGE) if buffer.capacity() < (1 << 16) => {
                buffer = Vec::with_capacity(buffer.capacity() * 4);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}
