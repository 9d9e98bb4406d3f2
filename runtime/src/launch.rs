//! Making a child and hearing of it, until it has executed its command or is gone without a trace.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::Running;
use crate::channel::{Channel, Report};
use crate::error::{Context, Error, Result};
use crate::sys::{self, Cloned};

/// Where a child begins.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// `CLONE_NEW*` for what is new.
    pub(crate) namespaces: libc::c_int,
    /// The pid namespace, or a process of it, if that is neither new nor the caller's.
    pub(crate) pid_namespace: Option<BorrowedFd<'a>>,
    /// The v2 group.
    pub(crate) group: Option<BorrowedFd<'a>>,
}

/// Clones a child that does `steps` and never returns from here, and waits until it says that it is ready. A
/// child that fails is reaped, and its error is the result.
pub(crate) fn launch(
    place: &Place<'_>,
    steps: impl FnOnce(&Channel) -> Result<Infallible>,
) -> Result<(Running, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    match clone_in(place).context(|| "making a process")? {
        Cloned::Child => {
            drop(ours);
            let Err(error) = steps(&theirs);
            theirs.send_failed(&error);
            sys::exit(error.exit_status().into())
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let mut running = Running { pid: pid.as_raw_pid(), pidfd, console: None, notes: Vec::new() };
            match ours.report() {
                Ok(Report::Ready { console, warnings }) => {
                    (running.console, running.notes) = (console, warnings);
                    Ok((running, ours))
                }
                other => Err(fail(&running, other)),
            }
        }
    }
}

/// Waits until the process executed its command; if it could not, reaps it.
pub(crate) fn settle(channel: &Channel, running: &Running) -> Result<()> {
    match channel.report() {
        Ok(Report::Closed) => Ok(()),
        other => Err(fail(running, other)),
    }
}

/// A pid namespace can only be entered by a clone: the caller changes that of its children for the moment.
fn clone_in(place: &Place<'_>) -> io::Result<Cloned> {
    let clone = || sys::clone3(place.namespaces, place.group);
    let Some(inside) = place.pid_namespace else { return clone() };
    let own = openat(CWD, "/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    sys::setns(inside, libc::CLONE_NEWPID)?;
    match clone() {
        Ok(Cloned::Child) => Ok(Cloned::Child),
        cloned => {
            sys::setns(own.as_fd(), libc::CLONE_NEWPID)?;
            cloned
        }
    }
}

/// Ends and reaps a child that could not be made.
pub(crate) fn fail(running: &Running, report: Result<Report>) -> Error {
    let reaped = running.end();
    match (report, reaped) {
        (Ok(Report::Failed(error)) | Err(error), _) | (Ok(_), Err(error)) => error,
        (Ok(_), Ok(())) => Error::spec("the new process was killed while it was set up"),
    }
}

/// The descriptors of namespaces to be joined.
pub(crate) fn open_namespaces(list: &[(libc::c_int, PathBuf)]) -> Result<Vec<(libc::c_int, OwnedFd)>> {
    let open = |(flag, path): &(libc::c_int, PathBuf)| {
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        file.map(|file| (*flag, file)).context(|| format!("opening the namespace {}", path.display()))
    };
    list.iter().map(open).collect()
}
