//! A umask of the calling thread alone.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::{UnshareFlags, unshare_unsafe};

thread_local! {
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// While this lives, what the calling thread makes has not the permissions that the mask names; at other times it has all.
///
/// The file system applies the mask, since it alone knows where a default ACL stands in its place.
#[derive(Debug)]
pub(crate) struct Umask {
    set: bool,
}

impl Umask {
    pub(crate) fn set(mask: u32) -> rustix::io::Result<Self> {
        if !OWN.get() {
            // SAFETY: no descriptor table is touched. The root, the working directory and the umask are copied for this thread,
            // which nothing here relies on sharing.
            unsafe { unshare_unsafe(UnshareFlags::FS)? };
            umask(Mode::empty());
            OWN.set(true);
        }
        let mask = Mode::from_raw_mode(mask & 0o777);
        let set = !mask.is_empty();
        if set {
            umask(mask);
        }
        Ok(Self { set })
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        if self.set {
            umask(Mode::empty());
        }
    }
}
