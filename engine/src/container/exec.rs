//! Further processes in a container that runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Container, Status};
use crate::supervisor::wire::{Answer, Channel, ExecRequest, Message, Request};
use crate::{Engine, Result};

/// A process that is to join a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The command.
    pub args: Vec<String>,
    /// Variables over those that the container has.
    pub env: Vec<String>,
    /// Where it starts; `None` where the container's command did.
    pub cwd: Option<String>,
    /// Who it is; `None` who the container's command is.
    pub user: Option<String>,
    /// Rows and columns of its terminal, if it is to have one.
    pub tty: Option<(u16, u16)>,
}

/// A process that joined a container.
#[derive(Debug)]
pub struct Execution {
    container: Container,
    channel: Channel,
    /// Its number on the host.
    pub pid: i32,
    /// What was asked for and the host does not grant.
    pub notes: Vec<String>,
    /// Its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

impl AsFd for Execution {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Execution {
    /// Waits for its end.
    pub fn wait(&self) -> Result<u8> {
        match self.container.next(&self.channel)? {
            Some(Message::Answer(Answer::Exited { code, .. }, _)) => Ok(code),
            // The container ended, and all in it with it.
            _ => Ok(137),
        }
    }
}

impl Engine {
    /// Runs a process in a container. `streams` are its standard input, output and error; without a terminal and without
    /// them it has none.
    pub fn exec(
        &self,
        container: &Container,
        options: &ExecOptions,
        streams: &[BorrowedFd<'_>],
    ) -> Result<Execution> {
        if self.state(container)?.status == Status::Starting {
            return Err(container.not_running());
        }
        let channel = container.connect()?.ok_or_else(|| container.not_running())?;
        let ExecOptions { args, env, cwd, user, tty } = options.clone();
        let request = Request::Exec(Box::new(ExecRequest { args, env, cwd, user, tty }));
        container.send(&channel, &request, streams)?;
        match container.next(&channel)? {
            Some(Message::Answer(Answer::Started { pid, notes }, fds)) => {
                let terminal = fds.into_iter().next();
                Ok(Execution { container: container.clone(), channel, pid, notes, terminal })
            }
            _ => Err(container.not_running()),
        }
    }
}
