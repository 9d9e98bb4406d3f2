//! Processes that run, and their ends.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::error::{Context, Result};

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
    /// What was asked for and this host does not grant, for the log: rlimits that cannot be raised and the like.
    pub notes: Vec<String>,
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

/// Takes the status of one ended child, whichever; with `block` waits for one. `None`: no child has ended, or there
/// is no child.
///
/// # Errors
///
/// Those of waitpid(2) other than having no children.
pub fn reap(block: bool) -> Result<Option<Reaped>> {
    let options = if block { WaitOptions::empty() } else { WaitOptions::NOHANG };
    loop {
        match rustix::io::retry_on_intr(|| wait(options)) {
            Err(rustix::io::Errno::CHILD) | Ok(None) => return Ok(None),
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
