//! Processes that run, and their ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, WaitStatus, wait, waitid};

use crate::error::{Context, Error, Result};
use crate::sys;

/// The standard streams of a new process. One with a terminal gets that instead.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// Descriptor 0.
    pub stdin: BorrowedFd<'a>,
    /// Descriptor 1.
    pub stdout: BorrowedFd<'a>,
    /// Descriptor 2.
    pub stderr: BorrowedFd<'a>,
}

/// A process of a container, and a child of the supervisor.
#[derive(Debug)]
pub struct Running {
    /// Its number in the supervisor's pid namespace, valid until it is reaped.
    pub pid: i32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
    /// The master side of its terminal, if it has one: what it prints is read there, its size is set there.
    pub console: Option<OwnedFd>,
    /// What was asked for and this host does not grant, for the log: rlimits that cannot be raised and the
    /// like.
    pub notes: Vec<String>,
}

impl Running {
    /// Sends a signal, a real-time one too.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the process has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        match sys::pidfd_send_signal(&self.pidfd, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(Error::Stopped),
            sent => sent.context(|| format!("sending signal {signal}")),
        }
    }

    /// Whether it has not ended, reaped or not.
    pub(crate) fn is_running(&self) -> bool {
        matches!(look(&self.pidfd), Ok(None))
    }

    /// Kills and reaps it; does nothing where that was done.
    pub(crate) fn end(&self) -> Result<()> {
        match self.signal(libc::SIGKILL) {
            Ok(()) | Err(Error::Stopped) => {
                reap_killed(&self.pidfd).context(|| format!("reaping process {}", self.pid))
            }
            Err(error) => Err(error),
        }
    }
}

/// Waits for a process that was killed; one that is reaped already is fine.
pub(crate) fn reap_killed(pidfd: &OwnedFd) -> rustix::io::Result<()> {
    match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)) {
        Ok(_) | Err(Errno::CHILD) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_reaped(pidfd: &OwnedFd) -> bool {
    matches!(look(pidfd), Err(Errno::CHILD))
}

/// The status of an ended child, which stays to be reaped.
fn look(pidfd: &OwnedFd) -> rustix::io::Result<Option<WaitIdStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), options)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(u8),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// As shells and `docker wait` say it: the status, or 128 and the signal.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// A child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its former number.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

/// Takes the status of one ended child, whichever; with `block` waits for one. `None`: no child has ended, or
/// there is no child.
///
/// # Errors
///
/// Those of waitpid(2) other than having no children.
pub fn reap(block: bool) -> Result<Option<Reaped>> {
    let options = if block { WaitOptions::empty() } else { WaitOptions::NOHANG };
    loop {
        match rustix::io::retry_on_intr(|| wait(options)) {
            Err(Errno::CHILD) | Ok(None) => return Ok(None),
            Err(error) => return Err(error).context(|| "waiting for children"),
            Ok(Some((pid, status))) => {
                if let Some(exit) = exit(status) {
                    return Ok(Some(Reaped { pid: pid.as_raw_pid(), exit }));
                }
            }
        }
    }
}

/// `None` for a child that stopped or continued.
fn exit(status: WaitStatus) -> Option<Exit> {
    let byte = |status: i32| u8::try_from(status & 0xff).unwrap_or(u8::MAX);
    status
        .exit_status()
        .map(|status| Exit::Status(byte(status)))
        .or(status.terminating_signal().map(Exit::Signal))
}
