//! Signals, pauses and the end of a container, as others bring them about.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::attach::Event;
use super::{Container, Status};
use crate::supervisor::wire::{Answer, Message, Request};
use crate::{Engine, Error, Result};

impl Engine {
    /// Sends a signal to the first process of a container.
    pub fn kill(&self, container: &Container, number: i32) -> Result<()> {
        if !self.state(container)?.status.is_live() {
            let name = container.name();
            return Err(Error::Conflict(format!("cannot kill container {name}: it is not running")));
        }
        container.ask(&Request::Signal { number, all: false }).map(drop)
    }

    /// Asks a container to end, and kills it if it has not after `patience`; `None` waits for as long as it takes. One that does
    /// not run is fine.
    pub fn stop(&self, container: &Container, patience: Option<Duration>) -> Result<()> {
        if !self.state(container)?.status.is_live() {
            return Ok(());
        }
        let ended = match self.attach(container, false, false) {
            Ok(ended) => ended,
            Err(Error::Conflict(_)) => return self.wait(container).map(drop),
            Err(error) => return Err(error),
        };
        let signal = container.record().settings.stop_signal.unwrap_or(libc::SIGTERM);
        let told = container.ask(&Request::Signal { number: signal, all: false });
        let deadline = patience.map(|patience| Instant::now() + patience);
        let ask_again = |number| match container.ask(&Request::Signal { number, all: true }) {
            Err(Error::Conflict(_) | Error::Runtime { .. }) => Ok(()),
            other => other.map(drop),
        };
        match told {
            // It ends already.
            Err(Error::Conflict(_)) => {}
            Err(_) => ask_again(libc::SIGKILL)?,
            Ok(_) if has_event(&ended, deadline)? => {}
            Ok(_) => ask_again(libc::SIGKILL)?,
        }
        while !matches!(ended.next()?, Event::Exited(..)) {}
        Ok(())
    }

    /// Stops every process in its tracks.
    pub fn pause(&self, container: &Container) -> Result<()> {
        self.state(container)?;
        container.ask(&Request::Pause).map(drop)
    }

    /// Lets the processes go on.
    pub fn unpause(&self, container: &Container) -> Result<()> {
        self.state(container)?;
        container.ask(&Request::Resume).map(drop)
    }

    /// The processes of a container, by their numbers on the host.
    pub fn processes(&self, container: &Container) -> Result<Vec<i32>> {
        if !matches!(self.state(container)?.status, Status::Running | Status::Paused) {
            return Err(container.not_running());
        }
        let channel = container.connect()?.ok_or_else(|| container.not_running())?;
        container.send(&channel, &Request::Processes, &[])?;
        match container.next(&channel)? {
            Some(Message::Answer(Answer::Processes(list), _)) => Ok(list),
            _ => Err(container.not_running()),
        }
    }
}

/// Whether something comes before the deadline.
fn has_event(attached: &super::Attached, deadline: Option<Instant>) -> Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(attached, PollFlags::IN)], left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io(|| "wait for a container")(e.into())),
            Ok(count) => return Ok(count > 0),
        }
    }
}
