//! A second process, to crash and to compete with: the one thing that needs `unsafe` here.
#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

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
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the process, and is meant to skip every destructor.
            unsafe { libc::_exit(status.into()) }
        }
        pid => {
            let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork returned no process"))?;
            Ok(Child { pid, reaped: false })
        }
    }
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its exit status; `None` when a signal ended it.
    pub(crate) fn wait(mut self) -> io::Result<Option<i32>> {
        self.reap().map(|status| status.and_then(WaitStatus::exit_status))
    }

    /// Ends it as a crash would, and returns when it is gone.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        kill_process(self.pid, Signal::KILL)?;
        self.reap().map(drop)
    }

    fn reap(&mut self) -> io::Result<Option<WaitStatus>> {
        let status = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty()))?;
        self.reaped = true;
        Ok(status.map(|(_, status)| status))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill_process(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}
