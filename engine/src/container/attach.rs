//! Being connected to a container that runs: what it prints, its input, its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::state::State;
use super::{Container, Status};
use crate::supervisor::wire::{Answer, Channel, Message, Request, Stream};
use crate::{Engine, Error, Result};

/// How long to wait before one looks again at a container that comes or goes.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// A connection to a container.
#[derive(Debug)]
pub struct Attached {
    container: Container,
    channel: Channel,
    input: Option<OwnedFd>,
}

/// What comes over the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The container printed something.
    Output(Stream, Vec<u8>),
    /// It ended with this status; these things could not be cleaned up.
    Exited(u8, Vec<String>),
}

impl AsFd for Attached {
    /// Readable when there is an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Attached {
    pub(super) fn new(container: &Container, channel: Channel, input: Option<OwnedFd>) -> Self {
        Self { container: container.clone(), channel, input }
    }

    /// Takes what writes to the command: a pipe, which ends its input when it is dropped, or its terminal.
    pub fn take_input(&mut self) -> Option<OwnedFd> {
        self.input.take()
    }

    /// Waits for the next event.
    pub fn next(&self) -> Result<Event> {
        loop {
            match self.container.next(&self.channel)? {
                Some(Message::Output(stream, bytes)) => return Ok(Event::Output(stream, bytes)),
                Some(Message::Answer(Answer::Exited { code, failures }, _)) => {
                    return Ok(Event::Exited(code, failures));
                }
                Some(_) => {}
                None => return Ok(self.lost()),
            }
        }
    }

    /// The supervisor was killed, and the container with it, or it ended while this connection was made.
    fn lost(&self) -> Event {
        match State::read(self.container.dir()) {
            Ok(state) if state.status == Status::Exited => Event::Exited(state.exit_code, Vec::new()),
            _ => Event::Exited(137, vec!["the supervisor of the container was killed".to_owned()]),
        }
    }

    /// Sends a signal to the first process. It is not told whether that has ended.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.tell(&Request::Signal { number, all: false })
    }

    /// Tells the container how large its terminal is now.
    pub fn resize(&self, (rows, columns): (u16, u16)) -> Result<()> {
        self.tell(&Request::Resize { rows, columns })
    }

    fn tell(&self, request: &Request) -> Result<()> {
        match self.container.send(&self.channel, request, &[]) {
            Err(Error::Conflict(_)) => Ok(()),
            sent => sent,
        }
    }
}

impl Engine {
    /// Connects to a container that runs.
    pub fn attach(&self, container: &Container, stdin: bool, output: bool) -> Result<Attached> {
        let state = self.state(container)?;
        if state.status == Status::Paused && output {
            let name = container.name();
            return Err(Error::Conflict(format!("container {name} is paused, unpause it before you attach")));
        }
        let channel = container.connect()?.ok_or_else(|| container.not_running())?;
        let handed = container.ask_over(&channel, &Request::Attach { stdin, output })?;
        Ok(Attached::new(container, channel, handed.into_iter().next()))
    }

    /// Waits until the container does not run, and returns the status of its last run.
    pub fn wait(&self, container: &Container) -> Result<u8> {
        loop {
            let state = self.state(container)?;
            if !state.status.is_live() {
                return Ok(state.exit_code);
            }
            match self.attach(container, false, false) {
                Ok(attached) => {
                    if let Event::Exited(code, _) = attached.next()? {
                        return Ok(code);
                    }
                }
                // Its supervisor does not listen yet, or not any more.
                Err(Error::Conflict(_)) => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }
}
