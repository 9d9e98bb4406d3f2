//! Work in another network namespace.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::{io, process, thread};

use mica_core::{Error, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Enough for a few system calls; the default of two megabytes is mapped for nothing.
const STACK: usize = 128 * 1024;

/// Does the work in the namespace. The calling thread goes there, and is back when this returns or the work panics; a thread of
/// its own would take five times as long.
///
/// What is opened inside, such as a socket, belongs to the namespace for good, and can be used from anywhere.
pub(crate) fn inside<T>(ns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let home = File::open("/proc/thread-self/ns/net")
        .map_err(Error::io(|| "open the network namespace that the thread is in"))?;
    // Whoever may not come back does not go.
    enter(home.as_fd()).map_err(|e| Error::driver("enter the network namespace that the thread is in", e))?;
    enter(ns).map_err(|e| Error::driver("enter the container's network namespace", e))?;
    let _back = Back(home);
    work()
}

fn enter(ns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?)
}

/// Takes the thread back to where it was.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        // It was let in before, so only memory can lack, and then for good: nothing may go on in a container's namespace that
        // takes it for the host's.
        if enter(self.0.as_fd()).is_err() {
            process::abort();
        }
    }
}

/// Does the work in a namespace that nobody else has, on a thread of its own, and that goes when the work is done.
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
