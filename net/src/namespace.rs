//! Work in another network namespace.

use std::os::fd::BorrowedFd;
use std::thread;

use mica_core::{Error, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Enough for a few system calls; the default of two megabytes is mapped for nothing.
const STACK: usize = 128 * 1024;

/// Does the work on a thread of its own that enters the namespace and ends with it. The calling thread stays where it
/// is, whatever becomes of the work.
///
/// What is opened inside, such as a socket, belongs to the namespace for good, and can be used from anywhere.
pub(crate) fn inside<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    apart(|| {
        move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::driver("enter the container's network namespace", e))?;
        work()
    })
}

/// Does the work so in a namespace that nobody else has, and that goes when the work is done.
pub(crate) fn in_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    apart(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::driver("make a network namespace", e))?;
        work()
    })
}

fn apart<T: Send>(enter_and_work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, enter_and_work)
            .map_err(Error::io(|| "start a thread to enter a network namespace"))?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::driver("work in a network namespace", "the thread that did it panicked"))
        })
    })
}
