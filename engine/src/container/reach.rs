//! Getting hold of a container so that it stays as it was found: by its lock when it does not run, through its
//! supervisor when it does.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::attach::PAUSE;
use super::busy::{PATIENCE, holder};
use super::{Busy, Container, State, Status};
use crate::supervisor::wire::{Channel, Request};
use crate::{Engine, Error, Result};

/// What a container that does not run is held for; completes "container w is …" for those who come meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Others may look at it too.
    Look(&'static str),
    /// Nobody else may have it.
    Change(&'static str),
}

/// A container as it was found.
#[derive(Debug)]
pub(super) enum Reached {
    /// It does not run, and cannot be started while this is held.
    Idle(Busy),
    /// It runs. Over this connection its supervisor did what it was asked for, and handed this out.
    Live(Channel, Vec<OwnedFd>),
}

impl Engine {
    /// Gets hold of a container, and has its supervisor do what is `asked` if it has one. While it is on its way up or down,
    /// or somebody else has it, this waits a moment.
    pub(super) fn reach(
        &self,
        container: &Container,
        purpose: Purpose,
        asked: Option<&Request>,
    ) -> Result<Reached> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state(container)?;
            if let Some(busy) = idle(container, purpose)? {
                return Ok(Reached::Idle(busy));
            }
            let failure = match state.status {
                Status::Running | Status::Paused => match ask(container, asked) {
                    Ok(reached) => return Ok(reached),
                    // It has just ended, or is about to.
                    Err(error @ (Error::Conflict(_) | Error::Runtime { .. })) => error,
                    Err(error) => return Err(error),
                },
                _ => Error::Conflict(format!("container {} {}", container.name(), holder(container.dir()))),
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// The lock of a container that does not run; `None` when somebody has it, who may be its supervisor.
fn idle(container: &Container, purpose: Purpose) -> Result<Option<Busy>> {
    let (dir, name) = (container.dir(), container.name());
    let (busy, doing) = match purpose {
        Purpose::Look(doing) => (Busy::try_share(dir, name)?, doing),
        Purpose::Change(doing) => (Busy::try_take(dir, name)?, doing),
    };
    let Some(mut busy) = busy else { return Ok(None) };
    // Its supervisor was killed since its state was read.
    if State::read(dir)?.status.is_live() {
        return Ok(None);
    }
    busy.note(doing)?;
    Ok(Some(busy))
}

fn ask(container: &Container, asked: Option<&Request>) -> Result<Reached> {
    let supervisor = container.connect()?.ok_or_else(|| container.not_running())?;
    let handed = asked.map_or(Ok(Vec::new()), |request| container.ask_over(&supervisor, request))?;
    Ok(Reached::Live(supervisor, handed))
}
