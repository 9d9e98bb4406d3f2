//! A second process, to crash and to compete with, and mounts that no third one sees: what needs `unsafe` here.
#![allow(unsafe_code)]

mod trace;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

pub(crate) use trace::{Traced, kill_at_step};

/// Gives this process a mount namespace of its own. Otherwise whoever makes one meanwhile has a copy of what is mounted for a
/// case, and keeps it after that was unmounted; and a case that is killed leaves its mounts.
pub(crate) fn leave_mount_namespace() -> io::Result<()> {
    // SAFETY: descriptors stay shared with nobody but threads, which a mount namespace does not touch.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let all = MountPropagationFlags::REC;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | all)?;
    // What is unmounted here is so for a helper too, which has a copy of this one.
    Ok(mount_change("/", MountPropagationFlags::SHARED | all)?)
}

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    reaped: bool,
}

/// Runs `work` in a copy of this process, which ends with its result as exit status and runs no destructor of what
/// it inherited. Cases run on the only thread of their process that is not asleep, so no lock is held by a thread
/// that the copy lacks.
pub(crate) fn fork(work: impl FnOnce() -> u8) -> io::Result<Child> {
    // SAFETY: the C library keeps its own locks usable in the child, and other threads hold none of ours; see above.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Child { pid: child, reaped: false }),
        ForkResult::Child => {
            let status = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the process, and is meant to skip every destructor.
            unsafe { nix::libc::_exit(status.into()) }
        }
    }
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its exit status; `None` when a signal ended it.
    pub(crate) fn wait(mut self) -> io::Result<Option<i32>> {
        match self.reap()? {
            WaitStatus::Exited(_, status) => Ok(Some(status)),
            _ => Ok(None),
        }
    }

    /// Ends it as a crash would, and returns when it is gone.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        self.reap().map(drop)
    }

    fn reap(&mut self) -> io::Result<WaitStatus> {
        self.reaped = true;
        loop {
            match waitpid(self.pid, None) {
                Err(nix::Error::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.reap();
        }
    }
}
