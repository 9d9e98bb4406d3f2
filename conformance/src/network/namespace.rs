//! Network namespaces, and threads that go into them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::kernel;

/// A network namespace that lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    descriptor: OwnedFd,
}

impl Namespace {
    /// A new one, whose `lo` is up.
    pub fn new() -> io::Result<Self> {
        run(|| {
            enter_new()?;
            Self::current()
        })
    }

    /// The one that the calling thread is in.
    pub fn current() -> io::Result<Self> {
        Ok(Self { descriptor: File::open("/proc/thread-self/ns/net")?.into() })
    }

    /// The one that this descriptor is of.
    pub fn of(descriptor: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { descriptor: descriptor.try_clone_to_owned()? })
    }

    /// Runs it on a thread in this namespace. A socket that it makes stays there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        run(|| {
            setns(&self.descriptor, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Leaves the namespace of the calling thread for a new one, whose `lo` is up. Threads that it starts later are in it, too.
pub fn enter_new() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    kernel::set_up("lo", true)
}

/// What tells the namespace of the calling thread from all others.
pub(crate) fn identity() -> io::Result<PathBuf> {
    fs::read_link("/proc/thread-self/ns/net")
}

fn run<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, work)?.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
