//! An open directory on the way to a member.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Timespec};
use rustix::io::Errno;

use super::fault::{Attempt, failed};
use super::metadata::{self, DEFAULT_ACL, Metadata, Target};
use super::seen::Place;
use super::site::Site;

/// How every directory is opened: a link in its place is an error.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) fd: OwnedFd,
    pub(super) place: Place,
    /// How many components below the root.
    pub(super) depth: usize,
    /// How many bytes of the cursor's path lead here.
    pub(super) length: usize,
    /// Whether it gives its group or an ACL to what is created in it.
    pub(super) inherits: bool,
    /// Whether something in it was created or removed.
    pub(super) changed: bool,
    /// What it gets when the cursor leaves it and nothing in it changes any more. So a directory may be read-only,
    /// and its default ACL does not spread to what the archive puts there.
    pub(super) pending: Option<Metadata>,
    /// Its time of change when the cursor came; `None` for one that was just made.
    found: Option<Timespec>,
}

impl Frame {
    /// One that was made just now, mode 0700 and the creator's own; if its parent gives its group, it has that one and
    /// gives it on.
    pub(super) fn made(fd: OwnedFd, place: Place, depth: usize, length: usize, inherits: bool) -> Self {
        Self { fd, place, depth, length, inherits, changed: false, pending: None, found: None }
    }

    /// One that was there.
    pub(super) fn found(fd: OwnedFd, place: Place, depth: usize, length: usize) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        let has_default_acl = rustix::fs::fgetxattr_query(&fd, DEFAULT_ACL).is_ok();
        let sets_group = Mode::from_raw_mode(stat.st_mode).contains(Mode::SGID);
        let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
        let mut frame = Self::made(fd, place, depth, length, sets_group || has_default_acl);
        frame.found = Some(mtime);
        Ok(frame)
    }

    /// Gives the directory its metadata, or its old time of change if the archive has none for it.
    pub(super) fn leave(self, path: &[u8], site: &mut Site<'_>) -> Attempt {
        let target = Target::Open(self.fd.as_fd());
        let was_there = self.found.is_some();
        let mut restored = if self.changed { self.found } else { None };
        if let Some(metadata) = &self.pending {
            if let Some((uid, gid)) = metadata.owner
                && (was_there || self.inherits || !site.creator.owns(uid, gid))
            {
                target.set_owner(uid, gid)?;
            }
            rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(metadata.mode))
                .map_err(failed("setting the mode of"))?;
            if was_there {
                metadata::drop_xattrs_but(self.fd.as_fd(), &metadata.xattrs)?;
            }
            target.set_xattrs(&metadata.xattrs, site.rules, path, &mut site.applied)?;
            if let Some(mtime) = metadata.mtime {
                target.set_mtime(mtime)?;
                restored = None;
            }
        }
        restored.map_or(Ok(()), |mtime| target.set_timestamp(mtime))
    }
}
