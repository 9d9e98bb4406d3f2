//! What `stat(2)` shows of a file, and changes to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{Attr, SetattrValid, stat64};
use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::node::Node;
use super::reach::{proc_path, stat_open};
use super::{Result, Union, lock};

impl Union {
    /// What a file is, as the kernel is told of it; by an open descriptor, if there is one.
    pub(crate) fn attributes(&self, node: &Arc<Node>, handle: Option<u64>) -> Result<stat64> {
        let stat = match handle.and_then(|handle| self.files.get(handle)) {
            Some(opened) => {
                let current = opened.current();
                let branch = if current.upper { 0 } else { node.place().branch };
                self.present(node, stat_open(current.as_fd())?, branch)
            }
            None => self.stat(&self.shown(node)?)?,
        };
        Ok(as_stat(&stat))
    }

    /// Where a symbolic link leads.
    pub(crate) fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let (file, _) = self.open_path(node)?;
        Ok(fs::readlinkat(&file, "", Vec::new())?.into_bytes())
    }

    /// Sets what `valid` names, after the file was copied up.
    pub(crate) fn change(
        &self,
        node: &Arc<Node>,
        handle: Option<u64>,
        wanted: &stat64,
        valid: SetattrValid,
    ) -> Result<()> {
        if valid.contains(SetattrValid::SIZE) {
            let size = u64::try_from(wanted.st_size).map_err(|_| Errno::INVAL)?;
            self.resize(node, handle, size, valid.contains(SetattrValid::KILL_SUIDGID))?;
        }
        let owner = valid.intersects(SetattrValid::UID | SetattrValid::GID);
        let mode = valid.contains(SetattrValid::MODE);
        let times = times(wanted, valid);
        // A chown(2) to nobody in particular, or an unprivileged process is about to write to a file that the kernel passes
        // through: it changes nothing but the time of change, setuid and setgid.
        let nothing = !valid.intersects(SetattrValid::SIZE) && !mode && times.is_none();
        if !owner && !mode && times.is_none() && !nothing {
            return Ok(());
        }
        let file = self.pin_writable(node)?;
        if owner || nothing {
            let uid = valid.contains(SetattrValid::UID).then(|| Uid::from_raw(wanted.st_uid));
            let gid = valid.contains(SetattrValid::GID).then(|| Gid::from_raw(wanted.st_gid));
            fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if mode {
            fs::chmod(proc_path(file.as_fd()), Mode::from_raw_mode(wanted.st_mode))?;
        }
        if let Some(times) = times {
            fs::utimensat(fs::CWD, proc_path(file.as_fd()), &times, AtFlags::empty())?;
        }
        Ok(())
    }

    fn resize(&self, node: &Arc<Node>, handle: Option<u64>, size: u64, kill: bool) -> Result<()> {
        let opened = handle.map(|handle| self.opened(handle)).transpose()?;
        let node = &self.raised(node, size)?;
        let content = lock(node.content()?);
        let current = opened.as_ref().or(content.opened()).map(|opened| opened.current());
        drop(content);
        match current.filter(|current| current.writable) {
            Some(current) => self.cut(current.as_fd(), size, kill),
            None => {
                let (file, _) = self.open_node(node, OFlags::WRONLY)?;
                self.cut(file.as_fd(), size, kill)
            }
        }
    }

    /// Makes a file that is open for writing this long.
    pub(crate) fn cut(&self, file: BorrowedFd<'_>, size: u64, kill: bool) -> Result<()> {
        if kill {
            kill_privileges(file)?;
        }
        fs::ftruncate(file, size)
    }

    /// A descriptor by which a file can be changed, after it was copied up. Directories too.
    pub(crate) fn pin_writable(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        if node.is_directory() {
            self.copy_up_directory(node)?;
            return Ok(Arc::new(self.open_path(node)?.0));
        }
        let node = &self.raised(node, u64::MAX)?;
        let current = lock(node.content()?).opened().map(|opened| opened.current());
        match current.filter(|current| current.upper) {
            Some(current) => Ok(current.file),
            None => Ok(Arc::new(self.open_path(node)?.0)),
        }
    }
}

/// The same, as the protocol has it.
pub(crate) fn as_stat(stat: &Statx) -> stat64 {
    let device = fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    Attr {
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: stat.stx_atime.tv_sec.cast_unsigned(),
        mtime: stat.stx_mtime.tv_sec.cast_unsigned(),
        ctime: stat.stx_ctime.tv_sec.cast_unsigned(),
        atimensec: stat.stx_atime.tv_nsec,
        mtimensec: stat.stx_mtime.tv_nsec,
        ctimensec: stat.stx_ctime.tv_nsec,
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        // The lower half holds all of a device number of less than 4096 (`new_encode_dev`).
        rdev: device as u32,
        blksize: stat.stx_blksize,
        flags: 0,
    }
    .into()
}

/// Takes setuid and setgid from a file that somebody writes to who may not keep them. File capabilities go by themselves.
pub(crate) fn kill_privileges(file: BorrowedFd<'_>) -> Result<()> {
    let mode = fs::fstat(file)?.st_mode;
    let without = without_privileges(mode);
    if without != mode {
        fs::fchmod(file, Mode::from_raw_mode(without))?;
    }
    Ok(())
}

/// The mode of a file that was written to. Setgid means something else where the group may not execute.
pub(crate) fn without_privileges(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
    mode & !(libc::S_ISUID | group)
}

fn times(wanted: &stat64, valid: SetattrValid) -> Option<Timestamps> {
    let set = SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::ATIME_NOW | SetattrValid::MTIME_NOW;
    let time = |now: SetattrValid, given: SetattrValid, seconds: i64, nanoseconds: i64| {
        let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        match () {
            () if valid.contains(now) => special(UTIME_NOW),
            () if valid.contains(given) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
            () => special(UTIME_OMIT),
        }
    };
    valid.intersects(set).then(|| Timestamps {
        last_access: time(
            SetattrValid::ATIME_NOW,
            SetattrValid::ATIME,
            wanted.st_atime,
            wanted.st_atime_nsec,
        ),
        last_modification: time(
            SetattrValid::MTIME_NOW,
            SetattrValid::MTIME,
            wanted.st_mtime,
            wanted.st_mtime_nsec,
        ),
    })
}

#[cfg(test)]
mod tests {
    use fuse_backend_rs::abi::fuse_abi::{SetattrIn, SetattrValid, stat64};
    use rustix::fs::{UTIME_NOW, UTIME_OMIT};

    use super::{times, without_privileges};

    #[test]
    fn who_writes_takes_setuid_away_but_not_the_mark_of_mandatory_locks() {
        assert_eq!(without_privileges(0o106_755), 0o100_755);
        assert_eq!(without_privileges(0o104_644), 0o100_644);
        assert_eq!(without_privileges(0o102_745), 0o102_745, "the group may not execute it");
        assert_eq!(without_privileges(0o101_777), 0o101_777);
    }

    #[test]
    fn a_time_is_now_or_as_given_or_left() {
        let wanted: stat64 =
            SetattrIn { atime: 5, atimensec: 6, mtime: 7, mtimensec: 8, ..Default::default() }.into();
        let of = |valid| {
            times(&wanted, valid).map(|times| {
                let (access, change) = (times.last_access, times.last_modification);
                (access.tv_sec, access.tv_nsec, change.tv_sec, change.tv_nsec)
            })
        };
        let now = SetattrValid::ATIME | SetattrValid::ATIME_NOW;
        assert_eq!(of(SetattrValid::ATIME | SetattrValid::MTIME), Some((5, 6, 7, 8)));
        assert_eq!(of(SetattrValid::MTIME), Some((0, UTIME_OMIT, 7, 8)));
        assert_eq!(of(now | SetattrValid::MTIME), Some((0, UTIME_NOW, 7, 8)));
        assert_eq!(of(SetattrValid::MODE | SetattrValid::SIZE), None);
    }
}
