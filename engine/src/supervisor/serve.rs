//! The loop of a supervisor: output to the log and the clients, requests, ends of processes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mica_runtime::{Exit, Running, reap};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};

use super::input::{Ours, Source};
use super::log::Log;
use super::network::Sandbox;
use super::stage::{Ready, Stage};
use super::wire::{Answer, CHUNK, Channel, Message, Stream};
use crate::Result;
use crate::container::StartOptions;

/// How long clients may take to read the rest when the container has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// A supervisor at work.
#[derive(Debug)]
pub(crate) struct Serve<'e> {
    pub(super) stage: Stage<'e>,
    listener: OwnedFd,
    pub(super) ours: Ours,
    log: Log,
    pub(super) clients: Vec<Client>,
    pub(super) execs: Vec<Exec>,
    /// How the first process ended, and when that was seen.
    ended: Option<(Exit, Instant)>,
    /// When another runtime failed to make a process last.
    pub(super) failed_exec: Option<Instant>,
    /// What went wrong on the way, told at the end.
    pub(super) failures: Vec<String>,
    notes: Vec<String>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) channel: Channel,
    pub(super) role: Role,
    /// Output that it was too slow for.
    pending: Option<(Stream, Vec<u8>)>,
    pub(super) gone: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Single requests.
    Plain,
    /// The end of the container, and its output if that is wanted.
    Attached { output: bool },
    /// The end of this process.
    Exec(i32),
    /// Keeps the container paused.
    Freezer,
}

/// A process that joined the container.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) running: Running,
    /// Nobody reads its terminal any more; what it prints is thrown away so that it can go on.
    pub(super) abandoned: bool,
}

/// What a descriptor that is polled stands for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Listener,
    Client(usize),
    Source(usize),
    Child,
    Console(usize),
    Names,
    Relay,
}

impl<'e> Serve<'e> {
    pub(crate) fn new(stage: Stage<'e>, ready: Ready, client: Channel, options: &StartOptions) -> Self {
        let Ready { listener, ours, log, notes } = ready;
        let output = options.attach;
        let mut serve = Self {
            stage,
            listener,
            ours,
            log,
            clients: Vec::new(),
            execs: Vec::new(),
            ended: None,
            failed_exec: None,
            failures: Vec::new(),
            notes,
        };
        serve.join(client, Role::Attached { output });
        serve
    }

    fn join(&mut self, channel: Channel, role: Role) {
        self.clients.push(Client { channel, role, pending: None, gone: false });
    }

    /// Tells the one who started the container that it runs, and hands out its input if that was asked for.
    pub(crate) fn started(&mut self, stdin: bool) {
        let pid = self.stage.state.pid;
        let input = if stdin { self.take_input() } else { Ok(Vec::new()) };
        let input = input.unwrap_or_else(|error| {
            self.failures.push(error.to_string());
            Vec::new()
        });
        let handed: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
        let answer = Answer::Started { pid, notes: std::mem::take(&mut self.notes) };
        for client in &mut self.clients {
            client.gone = client.channel.answer(&answer, &handed).is_err();
        }
    }

    /// Serves until the first process has ended and what it printed is with everyone.
    pub(crate) fn until_the_end(&mut self) {
        loop {
            if let Some((_, since)) = self.ended
                && (self.is_drained() || since.elapsed() > PATIENCE)
            {
                return;
            }
            let ready = match self.poll() {
                Ok(ready) => ready,
                Err(error) => {
                    self.failures.push(format!("wait for a container: {error}"));
                    return;
                }
            };
            if ready.is_empty() && self.ended.is_some() && !self.is_blocked() {
                // After the end a source with nothing to give is one that somebody else holds open.
                self.ours.sources.clear();
            }
            ready.into_iter().for_each(|token| self.handle(token));
            self.children();
            self.bury();
        }
    }

    fn is_drained(&self) -> bool {
        self.ours.sources.is_empty() && self.execs.is_empty() && !self.is_blocked()
    }

    /// A client has not taken yet what it was sent.
    fn is_blocked(&self) -> bool {
        self.clients.iter().any(|client| client.pending.is_some())
    }

    fn poll(&self) -> io::Result<Vec<Token>> {
        let mut polled = Vec::new();
        let ended = self.ended.is_some();
        if !ended {
            polled.push((Token::Listener, PollFd::new(&self.listener, PollFlags::IN)));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let wanted =
                if client.pending.is_some() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            polled.push((Token::Client(index), PollFd::new(&client.channel, wanted)));
        }
        if !self.is_blocked() {
            for (index, source) in self.ours.sources.iter().enumerate() {
                polled.push((Token::Source(index), PollFd::new(source, PollFlags::IN)));
            }
        }
        if let Some(machine) = self.stage.machine.as_ref().filter(|_| !ended) {
            polled.push((Token::Child, PollFd::from_borrowed_fd(machine.pidfd(), PollFlags::IN)));
        }
        if let Some(server) = self.stage.server() {
            polled.push((Token::Child, PollFd::from_borrowed_fd(server, PollFlags::IN)));
        }
        for (index, exec) in self.execs.iter().enumerate() {
            polled.push((Token::Child, PollFd::new(&exec.running.pidfd, PollFlags::IN)));
            if let Some(console) = exec.running.console.as_ref().filter(|_| exec.abandoned) {
                polled.push((Token::Console(index), PollFd::new(console, PollFlags::IN)));
            }
        }
        if let Some(sandbox) = self.stage.sandbox.as_ref().filter(|_| !ended) {
            let services = [(Token::Names, sandbox.names_fd()), (Token::Relay, sandbox.relay_fd())];
            let served = services.into_iter().filter_map(|(token, fd)| Some((token, fd?)));
            polled.extend(served.map(|(token, fd)| (token, PollFd::from_borrowed_fd(fd, PollFlags::IN))));
        }
        let (tokens, mut fds): (Vec<_>, Vec<_>) = polled.into_iter().unzip();
        let soon = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        loop {
            match poll(&mut fds, (ended || self.has_orphans()).then_some(&soon)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        let ready = tokens.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(token, _)| *token).collect())
    }

    /// Whether a child may end that no descriptor tells of: a runtime that failed can leave one in the container, whose pid
    /// namespace does not end before this process has reaped it.
    fn has_orphans(&self) -> bool {
        self.failed_exec.is_some_and(|since| since.elapsed() < PATIENCE)
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Client(index) => self.client(index),
            Token::Source(index) => self.output(index),
            // Children are reaped after every round.
            Token::Child => {}
            Token::Console(index) => self.discard(index),
            Token::Names => self.serve_network(Sandbox::answer),
            Token::Relay => self.serve_network(Sandbox::relay),
        }
    }

    /// Says once what fails: the container goes on without it.
    fn serve_network(&mut self, serve: impl FnOnce(&mut Sandbox<'e>) -> Result<()>) {
        let Some(Err(error)) = self.stage.sandbox.as_mut().map(serve) else { return };
        let text = error.to_string();
        if !self.failures.contains(&text) {
            self.failures.push(text);
        }
    }

    /// Lets in who is root. The directory says so already; a descriptor of it may have travelled.
    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        let is_root = rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid.is_root());
        if is_root {
            self.join(socket.into(), Role::Plain);
        }
    }

    fn client(&mut self, index: usize) {
        self.flush(index);
        let readable = {
            let mut fds = [PollFd::new(&self.clients[index].channel, PollFlags::IN)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
        };
        if !readable {
            return;
        }
        match self.clients[index].channel.receive() {
            Ok(Some(Message::Request(request, fds))) => self.request(index, request, &fds),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => self.clients[index].gone = true,
        }
    }

    /// Sends a client what it was too slow for.
    fn flush(&mut self, index: usize) {
        let client = &mut self.clients[index];
        if let Some((stream, bytes)) = client.pending.take() {
            client.print(stream, bytes);
        }
    }

    /// Takes what the container printed to the log and to the clients. While one of these has not taken what came before, nothing is
    /// read: the container waits for it, as it would for a slow terminal.
    fn output(&mut self, index: usize) {
        let mut buffer = vec![0; CHUNK];
        let Some(source) = self.ours.sources.get(index) else { return };
        let stream = source.stream;
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(source, &mut buffer[..])) {
            // A terminal says EIO when the last process has closed it.
            Ok(0) | Err(_) => {
                // The others keep their places in this round.
                return self.end_of(index);
            }
            Ok(length) => length,
        };
        buffer.truncate(length);
        if let Err(error) = self.log.write(stream, &buffer) {
            self.log_failed(&error);
        }
        for client in &mut self.clients {
            if client.role == (Role::Attached { output: true }) && !client.gone {
                client.print(stream, buffer.clone());
            }
        }
    }

    fn end_of(&mut self, index: usize) {
        // A source that has ended is polled no more; a closed pipe in its place would be reported for ever.
        let Source { stream, .. } = self.ours.sources[index];
        self.ours.sources.retain(|source| source.stream != stream);
    }

    /// Says it once: a full disk must not end the container.
    fn log_failed(&mut self, error: &io::Error) {
        let text = format!("write the log of container {}: {error}", self.stage.container.name());
        if !self.failures.contains(&text) {
            self.failures.push(text);
        }
    }

    fn discard(&mut self, index: usize) {
        let Some(exec) = self.execs.get_mut(index).filter(|exec| exec.abandoned) else { return };
        let mut buffer = [0; 4096];
        let read = exec.running.console.as_ref().map(|console| rustix::io::read(console, &mut buffer));
        if !matches!(read, Some(Ok(1..))) {
            exec.running.console = None;
        }
    }

    /// Reaps every child that has ended.
    fn children(&mut self) {
        while let Ok(Some(reaped)) = reap(false) {
            let is_first =
                self.ended.is_none() && self.stage.machine.as_ref().is_some_and(|m| m.pid() == reaped.pid);
            if is_first {
                self.first_ended(reaped.exit);
            }
            if let Some(text) = self.stage.lose(reaped.pid, reaped.exit) {
                self.failures.push(text);
                self.failures.extend(self.stage.record("serve.lost").err().map(|error| error.to_string()));
            }
            let Some(index) = self.execs.iter().position(|exec| exec.running.pid == reaped.pid) else {
                continue;
            };
            self.execs.remove(index);
            self.tell_exec(reaped.pid, reaped.exit.code());
        }
    }

    fn first_ended(&mut self, exit: Exit) {
        self.ended = Some((exit, Instant::now()));
        self.stage.look_for_oom();
        // From here on nobody in the container can print, so what is in the pipes is all.
        if let Err(error) = self.stage.remove_machine() {
            self.failures.push(error.to_string());
        }
    }

    fn tell_exec(&mut self, pid: i32, code: u8) {
        for client in &mut self.clients {
            if client.role == Role::Exec(pid) {
                let answer = Answer::Exited { code, failures: Vec::new() };
                client.gone = client.channel.answer(&answer, &[]).is_err();
            }
        }
    }

    /// Forgets clients that are gone, and undoes what lasted as long as they.
    fn bury(&mut self) {
        let (gone, stay) =
            std::mem::take(&mut self.clients).into_iter().partition(|client: &Client| client.gone);
        self.clients = stay;
        for client in gone {
            match client.role {
                Role::Freezer => self.thaw(),
                Role::Exec(pid) => {
                    self.execs
                        .iter_mut()
                        .filter(|exec| exec.running.pid == pid)
                        .for_each(|exec| exec.abandoned = true);
                }
                Role::Plain | Role::Attached { .. } => {}
            }
        }
    }

    /// Undoes everything, and tells those who wait for the end.
    pub(crate) fn end(mut self) {
        if let Err(error) = self.log.finish() {
            self.log_failed(&error);
        }
        let code = self.ended.map_or(137, |(exit, _)| exit.code());
        let mut failures = std::mem::take(&mut self.failures);
        drop(std::mem::take(&mut self.ours));
        failures.extend(self.stage.strike(Ok(code)));
        for client in &self.clients {
            if let Role::Attached { .. } = client.role {
                let answer = Answer::Exited { code, failures: failures.clone() };
                // A client that is gone needs no answer.
                let _ = client.channel.answer(&answer, &[]);
            }
        }
    }
}

impl Client {
    fn print(&mut self, stream: Stream, bytes: Vec<u8>) {
        match self.channel.output(stream, &bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pending = Some((stream, bytes)),
            Err(_) => self.gone = true,
        }
    }
}
