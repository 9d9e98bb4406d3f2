//! The socket over which an OCI runtime hands out the terminal that it made.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen, recvmsg, socket_with,
};

use crate::{Error, Result};

/// A runtime that ended without an error has connected before.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// A socket that waits for one terminal.
#[derive(Debug)]
pub(crate) struct ConsoleSocket {
    socket: OwnedFd,
    dir: OwnedFd,
    name: String,
}

impl ConsoleSocket {
    /// Listens at `name` in the directory `dir`, whose path may be long.
    pub(crate) fn listen(dir: &Path, name: &str) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let dir = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?)?;
            listen(&socket, 1)?;
            Ok(Self { socket, dir, name: name.to_owned() })
        };
        open().map_err(Error::io(|| "listen for a terminal"))
    }

    /// The terminal.
    pub(crate) fn receive(self) -> Result<OwnedFd> {
        let failed = || "receive a terminal from the runtime";
        let wait = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&PATIENCE));
        let receive = || -> io::Result<Option<OwnedFd>> {
            wait(&self.socket)?;
            let connection = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
            wait(&connection)?;
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            recvmsg(connection.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            Ok(ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            }))
        };
        let received = receive().map_err(Error::io(failed))?;
        received.ok_or_else(|| Error::io(failed)(io::Error::other("it sent none")))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Its directory goes with the container.
        let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), rustix::fs::AtFlags::empty());
    }
}
