//! What runs a container: the built-in runtime, or an OCI runtime of the user's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mica_runtime::{Bundle, Io, Running, remove_cgroup};
use oci_spec::runtime::{Process, Spec};

use super::external::External;
use crate::container::Container;
use crate::{Error, Result};

/// A container that was created.
#[derive(Debug)]
pub(crate) enum Machine {
    Own(Box<mica_runtime::Container>),
    Other(Box<External>),
}

impl From<mica_runtime::Error> for Error {
    fn from(error: mica_runtime::Error) -> Self {
        Self::Runtime { status: error.exit_status(), text: error.to_string() }
    }
}

impl Machine {
    /// Makes the container, whose first process waits. After an error nothing is left.
    pub(crate) fn create(
        container: &Container,
        runtime: Option<&str>,
        spec: &Spec,
        io: &Io<'_>,
        seccomp_cache: &Path,
    ) -> Result<Self> {
        match runtime {
            Some(program) => match External::create(container, program, spec, io) {
                Ok(other) => Ok(Self::Other(Box::new(other))),
                Err(error) => {
                    // A runtime that was killed has not tidied up. Why it failed says more than that this fails too.
                    let _ = clean_up(container, runtime);
                    Err(error)
                }
            },
            None => {
                let seccomp_cache = Some(seccomp_cache);
                let bundle = Bundle { id: container.id(), dir: container.dir(), spec, seccomp_cache };
                Ok(Self::Own(Box::new(mica_runtime::Container::create(&bundle, io)?)))
            }
        }
    }

    fn init(&self) -> &Running {
        match self {
            Self::Own(own) => own.init(),
            Self::Other(other) => other.init(),
        }
    }

    /// The first process.
    pub(crate) fn pid(&self) -> i32 {
        self.init().pid
    }

    /// Becomes readable when the first process ends.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.init().pidfd.as_fd()
    }

    /// What was asked for and the host does not grant.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.init().notes.clone()
    }

    /// The terminal of the first process, once.
    pub(crate) fn take_console(&mut self) -> Option<OwnedFd> {
        match self {
            Self::Own(own) => own.init_mut().console.take(),
            Self::Other(other) => other.take_console(),
        }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        match self {
            Self::Own(own) => Ok(own.start()?),
            Self::Other(other) => other.start(),
        }
    }

    pub(crate) fn exec(&mut self, process: &Process, io: &Io<'_>) -> Result<Running> {
        match self {
            Self::Own(own) => Ok(own.exec(process, io)?),
            Self::Other(other) => other.exec(process, io),
        }
    }

    /// Sends a signal to the first process, or to all.
    pub(crate) fn signal(&self, number: i32, all: bool) -> Result<()> {
        match self {
            Self::Own(own) if all => Ok(own.signal_all(number)?),
            Self::Own(own) => Ok(own.signal(number)?),
            Self::Other(other) => other.signal(number),
        }
    }

    pub(crate) fn pause(&self) -> Result<()> {
        match self {
            Self::Own(own) => Ok(own.pause()?),
            Self::Other(other) => other.command(&["pause"]),
        }
    }

    pub(crate) fn resume(&self) -> Result<()> {
        match self {
            Self::Own(own) => Ok(own.resume()?),
            Self::Other(other) => other.command(&["resume"]),
        }
    }

    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        match self {
            Self::Own(own) => Ok(own.processes()?),
            Self::Other(other) => other.processes(),
        }
    }

    /// Kills what is left and removes it. May be repeated.
    pub(crate) fn delete(&mut self) -> Result<()> {
        match self {
            Self::Own(own) => Ok(own.delete()?),
            Self::Other(other) => other.delete(),
        }
    }
}

/// Removes what a container left whose supervisor died.
pub(crate) fn clean_up(container: &Container, runtime: Option<&str>) -> Result<()> {
    if let Some(program) = runtime {
        External::forget(container, program)?;
    }
    Ok(remove_cgroup(&container.record().cgroup())?)
}
