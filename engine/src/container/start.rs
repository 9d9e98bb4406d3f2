//! Starting a container: forking its supervisor.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use mica_core::failpoint;

use super::attach::Attached;
use super::{Busy, Container, CreateOptions, Status};
use crate::supervisor::wire::{Answer, Channel, Message};
use crate::{Engine, Error, Result, supervisor, sys};

/// How long a joined thread may take to be gone on a busy host.
const THREAD_EXIT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

/// How a container is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// Its output is wanted.
    pub attach: bool,
    /// Its input is wanted, if it has one.
    pub stdin: bool,
    /// Rows and columns of its terminal, if it has one.
    pub size: (u16, u16),
}

/// A container that was started.
#[derive(Debug)]
pub struct Started {
    /// Its first process.
    pub pid: i32,
    /// What was asked for and the host does not grant.
    pub notes: Vec<String>,
    /// The connection to its supervisor: to drop it ends nothing.
    pub attached: Attached,
}

impl Engine {
    /// Starts a container that does not run. Its supervisor is forked from this process, which has one thread, and is a
    /// child of it until it ends.
    pub fn start(&self, container: &Container, options: &StartOptions) -> Result<Started> {
        let busy = Busy::take(container.dir(), container.name(), "being started")?;
        self.put_right_held(container)?;
        self.start_held(container, busy, options)
    }

    /// Makes a container and starts it, so that nobody gets between the two. After an error, one that removes itself is gone;
    /// where this process is killed before it has a supervisor, the next command that looks at it removes it.
    pub fn run(&self, create: &CreateOptions, start: &StartOptions) -> Result<(Container, Started)> {
        let auto_remove = create.settings.auto_remove;
        let status = if auto_remove { Status::Starting } else { Status::Created };
        let (container, busy) = self.create_held(create, status)?;
        match self.start_held(&container, busy, start) {
            Ok(started) => Ok((container, started)),
            Err(error) => {
                if auto_remove {
                    self.give_up(container.id());
                }
                Err(error)
            }
        }
    }

    fn start_held(&self, container: &Container, busy: Busy, options: &StartOptions) -> Result<Started> {
        let failed = || "start a container";
        failpoint::hit("start.held").map_err(Error::io(failed))?;
        await_single_thread()?;
        let (ours, theirs) = Channel::pair().map_err(Error::io(failed))?;
        // Opened before the fork, so that both have it; choosing and probing a driver costs more than all the rest.
        self.store(Some(&container.record().driver))?;
        match sys::fork().map_err(Error::io(failed))? {
            sys::Forked::Child => {
                drop(ours);
                supervisor::run(self, container, busy, theirs, options)
            }
            sys::Forked::Parent => {
                drop((theirs, busy));
                await_start(container, ours)
            }
        }
    }
}

/// A fork of a process with several threads has one of them, and the locks of all. A thread that was joined is still
/// counted until the kernel has let go of it.
pub(crate) fn await_single_thread() -> Result<()> {
    let deadline = Instant::now() + THREAD_EXIT;
    loop {
        let tasks = std::fs::read_dir("/proc/self/task");
        match tasks.map_err(Error::io(|| "count the threads of this process"))?.count() {
            1 => return Ok(()),
            many if Instant::now() >= deadline => {
                return Err(Error::Invalid(format!(
                    "a container is started by a process of one thread, this one has {many}; run 'mica start' instead"
                )));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn await_start(container: &Container, channel: Channel) -> Result<Started> {
    match container.next(&channel)? {
        Some(Message::Answer(Answer::Started { pid, notes }, fds)) => {
            let input: Option<OwnedFd> = fds.into_iter().next();
            Ok(Started { pid, notes, attached: Attached::new(container, channel, input) })
        }
        _ => Err(Error::Runtime { status: 125, text: "the supervisor of the container died".to_owned() }),
    }
}
