//! Network namespaces, and threads that go into them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::kernel;
use crate::sys;

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

    /// A new one that belongs to a user namespace of its own, in which the caller's root is another user, and whose `lo` is up.
    pub(crate) fn of_another_root() -> io::Result<Self> {
        let (told, tell) = io::pipe()?;
        let child = sys::fork(|| {
            let namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
            let made = unshare(namespaces).map_err(io::Error::from).and_then(|()| (&tell).write_all(b"."));
            // Until it is killed: others get at the namespace by way of this process.
            while made.is_ok() {
                thread::park();
            }
            1
        })?;
        drop(tell);
        (&told).read_exact(&mut [0]).map_err(|_| io::Error::other("the kernel makes no user namespace"))?;
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", child.pid()), "0 100000 65536")?;
        }
        let made = Self { descriptor: File::open(format!("/proc/{}/ns/net", child.pid()))?.into() };
        made.inside(|| kernel::set_up("lo", true))?;
        child.kill()?;
        Ok(made)
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
