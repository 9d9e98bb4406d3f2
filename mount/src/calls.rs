//! Which system calls the running kernel has for mounting.

use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{self, FsOpenFlags, OpenTreeFlags};

use crate::sys;

/// The ways of mounting, each of which can all that the one before it can, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Calls {
    /// `mount(2)` alone. A tree is attached below the scratch directory. No id maps.
    Classic,
    /// Trees are detached, and an overlay is mounted by `mount(2)` and detached at once (Linux 5.12).
    Trees,
    /// The layers of an overlay are named one by one (Linux 6.7), as strings of at most 255 bytes.
    Strings,
    /// The layers of an overlay are named one by one, as descriptors (Linux 6.15; real ones, not `O_PATH`, since 6.13).
    Descriptors,
}

impl Calls {
    /// The best way that the running kernel has, found by trying, once in the life of the process.
    ///
    /// Without the right to mount nothing can be found out, and is not remembered: [`Classic`](Self::Classic), whose
    /// `mount(2)` says what is missing.
    pub fn best() -> Self {
        static BEST: OnceLock<Calls> = OnceLock::new();
        if let Some(best) = BEST.get() {
            return *best;
        }
        match probe() {
            Ok(best) => *BEST.get_or_init(|| best),
            Err(_) => Self::Classic,
        }
    }
}

fn probe() -> Result<Calls, Errno> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC) {
        Err(Errno::NOSYS) => return Ok(Calls::Classic),
        tree => match sys::mount_setattr(tree?.as_fd(), false, &sys::UNCHANGED) {
            Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => return Ok(Calls::Classic),
            _ => {}
        },
    }
    let overlay = match mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        // Without overlayfs no way mounts one; the others are as good with any.
        Err(Errno::NODEV) => return Ok(Calls::Trees),
        other => other?,
    };
    // Before 6.5 overlayfs took any option here, to look at it later.
    if mount::fsconfig_set_flag(overlay.as_fd(), "no-such-option").is_ok() {
        return Ok(Calls::Trees);
    }
    if mount::fsconfig_set_fd(overlay.as_fd(), "lowerdir+", root.as_fd()).is_ok() {
        Ok(Calls::Descriptors)
    } else if mount::fsconfig_set_string(overlay.as_fd(), "lowerdir+", "/").is_ok() {
        Ok(Calls::Strings)
    } else {
        Ok(Calls::Trees)
    }
}
