//! An open directory on the way to a member.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Timespec};
use rustix::io::Errno;

use super::fault::Attempt;
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
    /// Whether nothing that the layers below have here can be seen.
    pub(super) alone: bool,
    /// Whether something in it was created or removed.
    pub(super) changed: bool,
    /// What it gets when the cursor leaves it and nothing in it changes any more. So a directory may be read-only,
    /// and its default ACL does not spread to what the archive puts there.
    pub(super) pending: Option<Metadata>,
    /// Its time of change when the cursor came; `None` for one that was just made.
    found: Option<Timespec>,
}

impl Frame {
    /// One that was made just now, mode 0700 and the creator's own; if its parent gives its group, it has that
    /// one and gives it on.
    pub(super) fn made(fd: OwnedFd, place: Place, depth: usize, length: usize, inherits: bool) -> Self {
        Self { fd, place, depth, length, inherits, alone: false, changed: false, pending: None, found: None }
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
    pub(super) fn leave(mut self, path: &[u8], site: &mut Site<'_>) -> Attempt {
        let fd = self.fd.as_fd();
        let restored = if self.changed { self.found } else { None };
        if let Some(metadata) = &mut self.pending {
            if self.found.is_some() {
                metadata::drop_xattrs_but(fd, &metadata.xattrs)?;
            } else if !self.inherits {
                metadata.owner = metadata.owner.filter(|&(uid, gid)| !site.creator.owns(uid, gid));
            }
            metadata.set(fd, site.rules, path, &mut site.applied)?;
            if metadata.mtime.is_some() {
                return Ok(());
            }
        }
        restored.map_or(Ok(()), |mtime| Target::Open(fd).set_timestamp(mtime))
    }
}
