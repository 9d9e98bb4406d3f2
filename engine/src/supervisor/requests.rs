//! What clients ask of a supervisor, and what they get.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use mica_runtime::Io;
use oci_spec::runtime::Process;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::termios::{Winsize, tcsetwinsize};

use super::external::null;
use super::failure;
use super::network::Sandbox;
use super::serve::{Exec, Role, Serve};
use super::wire::{Answer, ExecRequest, Request};
use crate::container::{Status, await_single_thread, console_size, process_capabilities, set_variable, user};
use crate::{Error, Result};

/// What an answer carries.
type Handed = Vec<OwnedFd>;

impl Serve<'_> {
    /// Does what client `index` asks for, and answers.
    pub(super) fn request(&mut self, index: usize, request: Request, fds: &[OwnedFd]) {
        let is_attached = matches!(self.clients[index].role, Role::Attached { .. });
        let answer = match request {
            Request::Attach { stdin, output } => self.attach(index, stdin, output),
            Request::Exec(exec) => self.exec(index, &exec, fds),
            Request::Signal { number, all } => self.signal(number, all),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Freeze => self.freeze(index),
            Request::Resize { rows, columns } => self.resize(rows, columns),
            Request::Tree => self.tree(),
            Request::Root => self.root(),
            Request::Processes => self.processes(),
            Request::Namespace => self.namespace(),
            Request::Connect(connection) => {
                self.in_sandbox(|sandbox| Ok(Answer::Connected { notes: sandbox.connect(&connection)? }))
            }
            Request::Disconnect { network, force } => {
                self.in_sandbox(|sandbox| sandbox.disconnect(&network, force).map(|()| Answer::Done))
            }
            Request::Rename(name) => self.in_sandbox(|sandbox| sandbox.rename(name).map(|()| Answer::Done)),
            Request::Mend => self.in_sandbox(|sandbox| sandbox.mend().map(|()| Answer::Done)),
            Request::CheckNetworks => self.in_sandbox(|sandbox| sandbox.check().map(|()| Answer::Done)),
        };
        if is_attached {
            // It reads output and the end, nothing else.
            return;
        }
        let (answer, handed) = answer.unwrap_or_else(|error| (failure(&error), Vec::new()));
        let handed: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
        if self.clients[index].channel.answer(&answer, &handed).is_err() {
            self.clients[index].gone = true;
        }
    }

    fn attach(&mut self, index: usize, stdin: bool, output: bool) -> Result<(Answer, Handed)> {
        self.clients[index].role = Role::Attached { output };
        Ok((Answer::Done, if stdin { self.take_input()? } else { Handed::new() }))
    }

    /// What writes to the command, for a client. With the first one standard input ends, if that was asked for.
    pub(super) fn take_input(&mut self) -> Result<Handed> {
        let settings = &self.stage.container.record().settings;
        let input = self.ours.stdin.as_ref().filter(|_| settings.stdin);
        let copy =
            input.map(OwnedFd::try_clone).transpose().map_err(Error::io(|| "hand out standard input"))?;
        if copy.is_some() && settings.stdin_once && !settings.tty {
            self.ours.stdin = None;
        }
        Ok(copy.into_iter().collect())
    }

    fn exec(&mut self, index: usize, request: &ExecRequest, fds: &[OwnedFd]) -> Result<(Answer, Handed)> {
        if self.stage.state.status == Status::Paused {
            let name = self.stage.container.name();
            return Err(Error::Conflict(format!(
                "container {name} is paused, unpause the container before exec"
            )));
        }
        let process = self.exec_process(request)?;
        let null = null()?;
        let stream = |number: usize| fds.get(number).unwrap_or(&null).as_fd();
        let io = Io { stdin: stream(0), stdout: stream(1), stderr: stream(2) };
        let running = self.stage.machine()?.exec(&process, &io);
        if running.is_err() {
            self.failed_exec = Some(Instant::now());
        }
        let running = running?;
        let console = running.console.as_ref().map(OwnedFd::try_clone).transpose();
        let console = console.map_err(Error::io(|| "hand out a terminal"))?;
        let answer = Answer::Started { pid: running.pid, notes: running.notes.clone() };
        self.clients[index].role = Role::Exec(running.pid);
        self.execs.push(Exec { running, abandoned: false });
        Ok((answer, console.into_iter().collect()))
    }

    /// The process that the container was created with, with another command.
    fn exec_process(&mut self, request: &ExecRequest) -> Result<Process> {
        let mut process = self.stage.process()?;
        let settings = &self.stage.container.record().settings;
        let allowed = process.capabilities().as_ref().and_then(|sets| sets.bounding().clone());
        if let Some(wanted) = &request.user {
            process.set_user(user::resolve(self.stage.root()?, wanted)?);
        }
        let mut env = process.env().clone().unwrap_or_default();
        // The variable is of the user that the container was created for.
        if request.user.is_some() && !settings.env.iter().any(|entry| entry.starts_with("HOME=")) {
            set_variable(&mut env, "HOME");
        }
        if request.tty.is_some() {
            set_variable(&mut env, "TERM=xterm");
        }
        request.env.iter().for_each(|entry| set_variable(&mut env, entry));
        let sets = process_capabilities(&allowed.unwrap_or_default(), process.user());
        process
            .set_args(Some(request.args.clone()))
            .set_env(Some(env))
            .set_terminal(Some(request.tty.is_some()))
            .set_capabilities(Some(sets))
            .set_console_size(request.tty.map(console_size));
        if let Some(cwd) = &request.cwd {
            process.set_cwd(cwd.into());
        }
        Ok(process)
    }

    fn signal(&mut self, number: i32, all: bool) -> Result<(Answer, Handed)> {
        self.stage.machine()?.signal(number, all)?;
        // The kernel keeps SIGKILL from a stopped v1 group until that goes on.
        if number == libc::SIGKILL && self.stage.state.status == Status::Paused {
            self.resume()?;
        }
        done()
    }

    fn pause(&mut self) -> Result<(Answer, Handed)> {
        if self.stage.state.status == Status::Paused {
            let name = self.stage.container.name();
            return Err(Error::Conflict(format!("container {name} is already paused")));
        }
        self.stage.machine()?.pause()?;
        self.set_status(Status::Paused)?;
        done()
    }

    fn resume(&mut self) -> Result<(Answer, Handed)> {
        if self.stage.state.status != Status::Paused {
            let name = self.stage.container.name();
            return Err(Error::Conflict(format!("container {name} is not paused")));
        }
        self.stage.machine()?.resume()?;
        self.set_status(Status::Running)?;
        done()
    }

    fn set_status(&mut self, status: Status) -> Result<()> {
        self.stage.state.status = status;
        self.stage.record("serve.status")
    }

    /// Stops the processes until the client goes, who may be killed.
    fn freeze(&mut self, index: usize) -> Result<(Answer, Handed)> {
        if self.stage.state.status != Status::Paused {
            self.stage.machine()?.pause()?;
        }
        self.clients[index].role = Role::Freezer;
        self.stage.write_back()?;
        done()
    }

    /// A client that kept the container from running is gone.
    pub(super) fn thaw(&mut self) {
        let is_held = self.clients.iter().any(|client| client.role == Role::Freezer);
        if is_held || self.stage.state.status == Status::Paused {
            return;
        }
        if let Some(machine) = &self.stage.machine
            && let Err(error) = machine.resume()
        {
            self.failures.push(error.to_string());
        }
    }

    fn resize(&mut self, rows: u16, columns: u16) -> Result<(Answer, Handed)> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if self.stage.container.record().settings.tty
            && let Some(terminal) = &self.ours.stdin
        {
            tcsetwinsize(terminal, size).map_err(|e| Error::io(|| "resize a terminal")(e.into()))?;
        }
        done()
    }

    fn tree(&mut self) -> Result<(Answer, Handed)> {
        let tree = mica_mount::Tree::copy_of(&self.stage.container.rootfs())?;
        let root = tree.root().try_clone_to_owned().map_err(Error::io(|| "hand out a tree"))?;
        Ok((Answer::Done, vec![root]))
    }

    fn root(&mut self) -> Result<(Answer, Handed)> {
        let path = format!("/proc/{}/root", self.stage.machine()?.pid());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty());
        Ok((Answer::Done, vec![root.map_err(|e| Error::io(|| format!("open '{path}'"))(e.into()))?]))
    }

    fn namespace(&mut self) -> Result<(Answer, Handed)> {
        Ok((Answer::Done, vec![self.stage.namespace()?]))
    }

    fn in_sandbox(
        &mut self,
        work: impl FnOnce(&mut Sandbox<'_>) -> Result<Answer>,
    ) -> Result<(Answer, Handed)> {
        let Some(sandbox) = &mut self.stage.sandbox else { return Err(self.stage.container.not_running()) };
        let worked = work(sandbox);
        // What works in a namespace does so on a thread of its own; whatever is started next needs a process of one.
        await_single_thread()?;
        let answer = worked.unwrap_or_else(|error| match error {
            Error::Conflict(text) => Answer::Refused { text },
            error => Answer::Failed { status: 1, text: error.to_string() },
        });
        Ok((answer, Handed::new()))
    }

    fn processes(&mut self) -> Result<(Answer, Handed)> {
        Ok((Answer::Processes(self.stage.machine()?.processes()?), Vec::new()))
    }
}

fn done() -> Result<(Answer, Handed)> {
    Ok((Answer::Done, Vec::new()))
}
