//! Owner, mode, extended attributes and times of what is extracted: always by file descriptor or without following
//! a link, and always in the order owner, mode, attributes, times. A change of owner clears setuid bits and file
//! capabilities, and a change of mode rewrites an ACL (chown(2), acl(5)).

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::fault::{Attempt, Fault, failed, printable, refuse};
use super::{Applied, SelinuxLabels, UnsupportedXattrs, foreign};
use crate::{Entry, Time};

const NAME_LIMIT: usize = 255;
const VALUE_LIMIT: usize = 64 << 10;
const CAPABILITY: &[u8] = b"security.capability";
const LABEL: &[u8] = b"security.selinux";
pub(super) const ACCESS_ACL: &str = "system.posix_acl_access";
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What a member's header says about it, for a directory that gets it later.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    /// `None` leaves the owner that creation gave.
    pub(super) owner: Option<(u32, u32)>,
    /// `None` leaves the time as it is.
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            mode: entry.mode,
            owner: Some((entry.uid, entry.gid)),
            mtime: Some(entry.mtime),
            xattrs: entry.xattrs.clone(),
        }
    }

    /// For a directory that the archive uses and does not list.
    pub(super) fn implied() -> Self {
        Self { mode: 0o755, owner: None, mtime: None, xattrs: Vec::new() }
    }

    /// What an open directory has, but for what overlayfs keeps there.
    pub(super) fn read(fd: BorrowedFd<'_>) -> Attempt<Self> {
        let stat = rustix::fs::fstat(fd).map_err(failed("looking at"))?;
        let mut xattrs = Vec::new();
        for name in xattr_names(fd)?.into_iter().filter(|name| !is_overlays(name)) {
            let mut value = vec![0; VALUE_LIMIT];
            let length = rustix::fs::fgetxattr(fd, &name, &mut value[..])
                .map_err(failed("reading an attribute of"))?;
            value.truncate(length);
            xattrs.push((name, value));
        }
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            owner: Some((stat.st_uid, stat.st_gid)),
            mtime: Some(Time { seconds: stat.st_mtime, nanoseconds }),
            xattrs,
        })
    }

    /// Sets it all, in an order in which nothing undoes what came before.
    pub(super) fn set(
        &self,
        fd: BorrowedFd<'_>,
        rules: XattrRules,
        member: &[u8],
        applied: &mut Applied,
    ) -> Attempt {
        let target = Target::Open(fd);
        if let Some((uid, gid)) = self.owner {
            target.set_owner(uid, gid)?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode)).map_err(failed("setting the mode of"))?;
        target.set_xattrs(&self.xattrs, rules, member, applied)?;
        self.mtime.map_or(Ok(()), |mtime| target.set_mtime(mtime))
    }
}

/// What files get when they are created, which need not be set again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Creator {
    uid: u32,
    gid: u32,
    /// Bits that a creation may lose: all, where the umask cannot be told.
    umask: u32,
}

impl Creator {
    pub(super) fn current() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw(), umask: umask().unwrap_or(0o777) }
    }

    pub(super) fn owner(self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    pub(super) fn owns(self, uid: u32, gid: u32) -> bool {
        (uid, gid) == (self.uid, self.gid)
    }

    /// Whether something created with `mode` has it still, once its owner was set and its content written.
    pub(super) fn keeps(self, mode: u32) -> bool {
        mode & (self.umask | 0o7000) == 0
    }
}

/// Read, never set: setting it to look would change it for every thread of the process for a moment.
fn umask() -> Option<u32> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// The two rules about attributes that a caller chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct XattrRules {
    pub(super) unsupported: UnsupportedXattrs,
    pub(super) labels: SelinuxLabels,
}

/// Something whose attributes are set: open, or a name in an open directory that is not followed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Open(BorrowedFd<'a>),
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl Target<'_> {
    pub(super) fn set_owner(self, uid: u32, gid: u32) -> Attempt {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Named(dir, name) => rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(failed("setting the owner of"))
    }

    pub(super) fn set_mtime(self, mtime: Time) -> Attempt {
        let nanoseconds = mtime.nanoseconds.min(999_999_999).into();
        self.set_timestamp(Timespec { tv_sec: mtime.seconds, tv_nsec: nanoseconds })
    }

    pub(super) fn set_timestamp(self, last_modification: Timespec) -> Attempt {
        let times =
            Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::Named(dir, name) => rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
        .map_err(failed("setting the time of"))
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Named(dir, file) => {
                rustix::fs::lsetxattr(beneath(dir, file), name, value, XattrFlags::empty())
            }
        }
    }

    /// Undoes what a default ACL of the parent directory gave to something new.
    pub(super) fn drop_inherited_acl(self) -> Attempt {
        for name in [ACCESS_ACL, DEFAULT_ACL] {
            let removed = match self {
                Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
                Self::Named(dir, file) => rustix::fs::lremovexattr(beneath(dir, file), name),
            };
            match removed {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed("removing an inherited ACL from")(errno)),
            }
        }
        Ok(())
    }

    /// Sets `xattrs`, `security.capability` last.
    pub(super) fn set_xattrs(
        self,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        rules: XattrRules,
        member: &[u8],
        applied: &mut Applied,
    ) -> Attempt {
        let last = |wanted: bool| xattrs.iter().filter(move |(name, _)| (name == CAPABILITY) == wanted);
        for (name, value) in last(false).chain(last(true)) {
            if name == LABEL && rules.labels == SelinuxLabels::Skip {
                continue;
            }
            match self.set_xattr(name, value) {
                Ok(()) => {}
                Err(errno) if unsupported(errno) => match rules.unsupported {
                    UnsupportedXattrs::Strict => {
                        return Err(Fault::Attribute(format!("{}: {errno}", printable(name))));
                    }
                    UnsupportedXattrs::Warn => applied.warn(format!(
                        "'{}' lost its attribute {}: {errno}",
                        printable(member),
                        printable(name)
                    )),
                },
                Err(errno) => {
                    let doing =
                        format!("setting {} of archive member '{}'", printable(name), printable(member));
                    return Err(Fault::Said(crate::Error::io(doing)(errno.into())));
                }
            }
        }
        Ok(())
    }
}

/// The names of the attributes of an open file.
fn xattr_names(fd: BorrowedFd<'_>) -> Attempt<Vec<Vec<u8>>> {
    let names = || -> Result<Vec<u8>, Errno> {
        let mut names = vec![0; rustix::fs::flistxattr_query(fd)?];
        let length = if names.is_empty() { 0 } else { rustix::fs::flistxattr(fd, &mut names[..])? };
        names.truncate(length);
        Ok(names)
    };
    match names() {
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(failed("listing the attributes of")(errno)),
        Ok(names) => {
            Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
        }
    }
}

/// Takes from a directory that was there the attributes that its new metadata does not have. Overlayfs keeps
/// its own, and the label is the host's.
pub(super) fn drop_xattrs_but(fd: BorrowedFd<'_>, kept: &[(Vec<u8>, Vec<u8>)]) -> Attempt {
    for name in xattr_names(fd)? {
        let kept = kept.iter().any(|(kept, _)| *kept == name) || is_overlays(&name) || name == LABEL;
        match if kept { Ok(()) } else { rustix::fs::fremovexattr(fd, &name) } {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(failed("removing an old attribute from")(errno)),
        }
    }
    Ok(())
}

/// What overlayfs keeps for itself: with it a layer could redirect into another one, or borrow its content.
fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// What says that this file, file system or user namespace cannot have the attribute at all.
fn unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL)
}

/// A path to a thing in an open directory, for the calls that have no `…at` form before Linux 6.13. The kernel
/// jumps to the descriptor's directory; the name is the last component, which the `l…` calls do not follow.
fn beneath(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Sets the mode of something that is no symbolic link and cannot be opened without side effects.
pub(super) fn set_mode_of_special(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> Attempt {
    use rustix::fs::OFlags;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .and_then(|fd| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
        })
        .map_err(failed("setting the mode of"))
}

/// Refuses metadata that the kernel would misunderstand, before anything is made.
pub(super) fn check(entry: &Entry) -> Attempt {
    // chown(2) takes -1 for "leave it as it is".
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return refuse(format!("its owner {}:{} is not a valid one", entry.uid, entry.gid));
    }
    if entry.mtime.nanoseconds > 999_999_999 {
        return refuse(format!("its time has {} nanoseconds", entry.mtime.nanoseconds));
    }
    for (name, value) in &entry.xattrs {
        if is_overlays(name) {
            return refuse(format!("the attribute {} belongs to overlayfs", printable(name)));
        }
        if name.is_empty() || name.contains(&0) || name.len() > NAME_LIMIT {
            return refuse(format!("'{}' cannot name an attribute", printable(name)));
        }
        if value.len() > VALUE_LIMIT && !foreign::is_foreign(name) {
            return refuse(format!("its attribute {} has more than {VALUE_LIMIT} bytes", printable(name)));
        }
    }
    Ok(())
}
