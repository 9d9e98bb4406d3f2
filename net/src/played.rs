//! Network namespaces that play hosts and containers in tests. None ever touches that of the machine.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use mica_core::Result;
use nix::sched::{CloneFlags, unshare};

use crate::namespace;

/// A new namespace, empty but for `lo`. It goes with the last descriptor of it.
pub(crate) fn machine() -> OwnedFd {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap().into()
    };
    thread::spawn(make).join().unwrap()
}

/// Does something inside.
pub(crate) fn on<T: Send>(machine: &OwnedFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    namespace::inside(machine.as_fd(), work)
}
