//! The host's binary, out of the container's reach.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Context, Result};
use crate::rootfs::clone_tree;
use crate::sys::{self, MountAttr};

/// This program's own file on a read-only mount that is attached nowhere: what a supervisor is executed from,
/// as `/proc/self/fd/N`.
///
/// A command `/proc/self/exe`, or a script with that interpreter, makes a container execute its supervisor's
/// file; opened for writing through `/proc/PID/exe` it would overwrite the host's program (CVE-2019-5736).
/// Executed from here it cannot be: the mount is read-only, and no process inside can name it to change that.
/// Nothing is copied.
///
/// # Errors
///
/// The file cannot be opened any more, or the kernel is older than 5.12.
pub fn protected_self() -> Result<OwnedFd> {
    let what = || "protecting the supervisor's program file";
    let program =
        openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    let mount = clone_tree(&program, Path::new(""), false).context(what)?;
    let readonly = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    sys::mount_setattr(mount.as_fd(), false, readonly).context(what)?;
    Ok(mount)
}
