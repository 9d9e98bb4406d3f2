//! This command between its own terminal or pipes and those of a container.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use super::feed::{Fed, Feed};
use super::terminal;
use crate::container::{Attached, Event, Execution, Stream};
use crate::{Error, Result};

/// What is handed on to the container when this command gets it.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process ended with this status; these things could not be cleaned up.
    Exited(u8, Vec<String>),
    /// The process goes on without this command.
    Detached,
}

/// What this command is connected to.
#[derive(Debug)]
pub(super) enum Remote<'a> {
    /// A container.
    Container(&'a Attached),
    /// A process in one, and what it prints: where from, and on which stream.
    Process { execution: &'a Execution, outputs: Vec<(OwnedFd, Stream)>, ended: Option<u8> },
}

/// A connection of this command's streams.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) remote: Remote<'a>,
    pub(super) feed: Option<Feed>,
    pub(super) tty: bool,
    /// Signals are handed on.
    pub(super) proxy: bool,
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Feed,
    Remote,
    Output(usize),
}

impl Session<'_> {
    /// Goes on until one side ends it.
    pub(super) fn run(mut self) -> Result<End> {
        let _raw = if self.tty && self.feed.is_some() { terminal::Raw::enter()? } else { None };
        let signals = self.signals()?;
        if self.tty {
            self.resize();
        }
        loop {
            let ready = self.poll(&signals)?;
            if ready.is_empty()
                && let Remote::Process { ended: Some(code), .. } = self.remote
            {
                // What it left running in the background may hold its output open.
                return Ok(End::Exited(code, Vec::new()));
            }
            for token in ready {
                if let Some(end) = self.handle(token, &signals)? {
                    return Ok(end);
                }
            }
        }
    }

    fn signals(&self) -> Result<SignalFd> {
        let mut set = SigSet::empty();
        if self.proxy {
            PASSED_ON.into_iter().for_each(|signal| set.add(signal));
        }
        if self.tty {
            set.add(Signal::SIGWINCH);
        }
        let made = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
        made.map_err(|e| Error::io(|| "listen for signals")(e.into()))
    }

    fn poll(&self, signals: &SignalFd) -> Result<Vec<Token>> {
        let mut polled = vec![(Token::Signals, PollFd::new(signals, PollFlags::IN))];
        if let Some(feed) = &self.feed {
            let (fd, room) = feed.waits_for();
            let flags = if room { PollFlags::OUT } else { PollFlags::IN };
            polled.push((Token::Feed, PollFd::from_borrowed_fd(fd, flags)));
        }
        let mut patience = None;
        match &self.remote {
            Remote::Container(attached) => {
                polled.push((Token::Remote, PollFd::new(*attached, PollFlags::IN)));
            }
            Remote::Process { execution, outputs, ended } => {
                match ended {
                    None => polled.push((Token::Remote, PollFd::new(*execution, PollFlags::IN))),
                    Some(_) => patience = Some(rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 }),
                }
                for (index, (fd, _)) in outputs.iter().enumerate() {
                    polled.push((Token::Output(index), PollFd::new(fd, PollFlags::IN)));
                }
            }
        }
        if patience.is_some() {
            polled.retain(|(token, _)| matches!(token, Token::Output(_)));
        }
        let (tokens, mut fds): (Vec<_>, Vec<_>) = polled.into_iter().unzip();
        loop {
            match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io(|| "wait for a container")(e.into())),
                Ok(_) => break,
            }
        }
        let ready = tokens.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(token, _)| token).collect())
    }

    fn handle(&mut self, token: Token, signals: &SignalFd) -> Result<Option<End>> {
        match token {
            Token::Signals => self.pass_on(signals)?,
            Token::Feed => match self.feed.as_mut().map_or(Ok(Fed::Over), Feed::turn)? {
                Fed::More => {}
                Fed::Over => self.feed = None,
                Fed::Detach => return Ok(Some(End::Detached)),
            },
            Token::Remote => return self.remote(),
            Token::Output(index) => return self.output(index),
        }
        Ok(None)
    }

    fn remote(&mut self) -> Result<Option<End>> {
        match &mut self.remote {
            Remote::Container(attached) => match attached.next()? {
                Event::Exited(code, failures) => Ok(Some(End::Exited(code, failures))),
                Event::Output(stream, bytes) => print(stream, &bytes),
            },
            Remote::Process { execution, ended, .. } => {
                *ended = Some(execution.wait()?);
                Ok(None)
            }
        }
    }

    fn output(&mut self, index: usize) -> Result<Option<End>> {
        let Remote::Process { outputs, .. } = &mut self.remote else { return Ok(None) };
        let Some((fd, stream)) = outputs.get(index) else { return Ok(None) };
        let mut buffer = vec![0; 32 * 1024];
        match rustix::io::read(fd, &mut buffer[..]) {
            Ok(length @ 1..) => print(*stream, &buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // A terminal says EIO when its last process has closed it.
            Ok(0) | Err(_) => {
                outputs.remove(index);
                Ok(None)
            }
        }
    }

    fn pass_on(&self, signals: &SignalFd) -> Result<()> {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = info.ssi_signo.cast_signed();
            if number == libc::SIGWINCH {
                self.resize();
            } else if let Remote::Container(attached) = &self.remote {
                attached.signal(number)?;
            }
        }
        Ok(())
    }

    /// Tells the other side how large the terminal is. It may have none left to size.
    fn resize(&self) {
        let (rows, columns) = terminal::size();
        if (rows, columns) == (0, 0) {
            return;
        }
        match &self.remote {
            Remote::Container(attached) => drop(attached.resize((rows, columns))),
            Remote::Process { execution, .. } => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = execution.terminal.as_ref().map(|terminal| tcsetwinsize(terminal.as_fd(), size));
            }
        }
    }
}

/// Hands on what was printed. Where nobody reads any more this command ends, and the container goes on.
fn print(stream: Stream, bytes: &[u8]) -> Result<Option<End>> {
    let written = match stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Stderr => io::stderr().write_all(bytes),
    };
    match written {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Some(End::Detached)),
        Err(e) => Err(Error::io(|| "print what the container prints")(e)),
    }
}
