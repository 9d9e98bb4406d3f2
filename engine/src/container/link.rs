//! A client's connection to the supervisor of a container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::Container;
use crate::supervisor::wire::{Answer, Channel, Message, Request};
use crate::{Error, Result};

/// The socket of a supervisor, in the container's directory.
pub(crate) const SOCKET: &str = "control.sock";

impl Container {
    /// Connects to the supervisor; `None` when there is none.
    pub(crate) fn connect(&self) -> Result<Option<Channel>> {
        let failed = || format!("reach the supervisor of container {}", self.name());
        match open_socket(self.dir()) {
            Ok(socket) => Ok(Some(socket.into())),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(e) => Err(Error::io(failed)(e)),
        }
    }

    /// Asks the supervisor of a running container for one thing; what it hands out comes back.
    pub(crate) fn ask(&self, request: &Request) -> Result<Vec<OwnedFd>> {
        let channel = self.connect()?.ok_or_else(|| self.not_running())?;
        self.ask_over(&channel, request)
    }

    /// As [`ask`](Self::ask), over a connection that stays.
    pub(crate) fn ask_over(&self, channel: &Channel, request: &Request) -> Result<Vec<OwnedFd>> {
        self.send(channel, request, &[])?;
        match self.next(channel)? {
            Some(Message::Answer(Answer::Done, fds)) => Ok(fds),
            _ => Err(self.not_running()),
        }
    }

    pub(crate) fn send(&self, channel: &Channel, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match channel.request(request, fds) {
            // It ended between the connection and the request.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(self.not_running())
            }
            sent => sent.map_err(Error::io(|| format!("ask the supervisor of container {}", self.name()))),
        }
    }

    /// What the supervisor says next; that it could not do what it was asked for is an error.
    pub(crate) fn next(&self, channel: &Channel) -> Result<Option<Message>> {
        let failed = || format!("hear from the supervisor of container {}", self.name());
        match channel.receive().map_err(Error::io(failed))? {
            Some(Message::Answer(Answer::Failed { status, text }, _)) => Err(Error::Runtime { status, text }),
            Some(Message::Answer(Answer::Refused { text }, _)) => Err(Error::Conflict(text)),
            other => Ok(other),
        }
    }

    pub(crate) fn not_running(&self) -> Error {
        Error::Conflict(format!("container {} is not running", self.name()))
    }
}

/// Asks the supervisor of the container in `dir` for something, and does not wait for it. Where there is none there is nothing to
/// be asked for.
pub(crate) fn post(dir: &Path, request: &Request) -> io::Result<()> {
    let sent = open_socket(dir).and_then(|socket| Channel::from(socket).request(request, &[]));
    match sent.map_err(|error| (error.kind(), error)) {
        Err((
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe,
            _,
        )) => Ok(()),
        sent => sent.map_err(|(_, error)| error),
    }
}

/// The path in an address is short; the directory may have a long one. So it is reached through a descriptor.
fn open_socket(dir: &Path) -> io::Result<OwnedFd> {
    let dir = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address(dir.as_fd())?)?;
    Ok(socket)
}

/// The address of the socket in a directory that is open in this process.
pub(crate) fn address(dir: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?)
}
