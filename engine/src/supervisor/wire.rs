//! What is said over the socket of a supervisor.
//!
//! A packet is one message: a letter, and JSON or bytes that the container printed. Descriptors ride along. The first
//! packet of a connection is a [`Request`]; what comes back depends on it. Whoever closes the connection takes back what
//! holds only as long as it lasts, such as a pause for a commit.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mica_core::network::NetworkId;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::container::Connection;

/// The longest message: an exec with a long command line. The kernel's default for a socket's buffer is as much.
const LONGEST: usize = 200 * 1024;

/// The most bytes of output in one message.
pub(crate) const CHUNK: usize = 32 * 1024;

/// What a client asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// What the container prints from now on, as [`Message::Output`], then its [`Answer::Exited`]. With `stdin` the first
    /// [`Answer::Done`] carries the terminal, or the writing end of standard input.
    Attach {
        /// Whether it is wanted to write to it.
        stdin: bool,
        /// Whether output is wanted, and not only the end.
        output: bool,
    },
    /// A further process. Its standard streams come with the request, unless it has a terminal, which comes with the answer;
    /// [`Answer::Exited`] follows when it ends.
    Exec(Box<ExecRequest>),
    /// A signal for the first process, or for all. Answered unless the connection is attached.
    Signal {
        /// Its number.
        number: i32,
        /// Every process of the container gets it.
        all: bool,
    },
    /// Stops every process in its tracks.
    Pause,
    /// Lets them go on.
    Resume,
    /// As `Pause`, until the connection is closed.
    Freeze,
    /// The size of the terminal, in characters.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters of a line.
        columns: u16,
    },
    /// A second mount of the root file system, without what is mounted in it.
    Tree,
    /// The root directory as the container sees it, with what is mounted in it.
    Root,
    /// The processes of the container.
    Processes,
    /// Its network namespace.
    Namespace,
    /// One more network; answered by [`Answer::Connected`].
    Connect(Box<Connection>),
    /// One network less.
    Disconnect {
        /// The network.
        network: NetworkId,
        /// Also where something of it stays behind.
        force: bool,
    },
    /// The container has another name now.
    Rename(String),
    /// Its places in networks are to be what they were, after somebody took a part of them away.
    Mend,
    /// What of its places in networks is missing is the answer, as a failure.
    CheckNetworks,
}

/// A further process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExecRequest {
    pub(crate) args: Vec<String>,
    /// Over those that the container has; a bare name takes one away.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: Option<String>,
    pub(crate) user: Option<String>,
    /// Rows and columns of its terminal, if it has one.
    pub(crate) tty: Option<(u16, u16)>,
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It is done; what was asked for rides along.
    Done,
    /// The process runs.
    Started {
        /// Its number on the host.
        pid: i32,
        /// What was asked for and the host does not grant.
        notes: Vec<String>,
    },
    /// It could not be done.
    Failed {
        /// The exit status of a command that fails with it.
        status: u8,
        /// Why.
        text: String,
    },
    /// The container is not in a state for it.
    Refused {
        /// Why.
        text: String,
    },
    /// The process ended.
    Exited {
        /// Its status.
        code: u8,
        /// What could not be cleaned up after it.
        failures: Vec<String>,
    },
    /// The processes of the container.
    Processes(Vec<i32>),
    /// It is connected.
    Connected {
        /// What was changed on the host for it.
        notes: Vec<String>,
    },
}

/// Which stream something was printed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One message.
#[derive(Debug)]
pub(crate) enum Message {
    Request(Request, Vec<OwnedFd>),
    Answer(Answer, Vec<OwnedFd>),
    Output(Stream, Vec<u8>),
}

/// A connection to a supervisor, or of one.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    pub(crate) fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(request)?;
        if text.len() >= LONGEST {
            return Err(io::Error::other("the command line and its environment are too long"));
        }
        self.send(b'q', &text, fds, SendFlags::empty())
    }

    pub(crate) fn answer(&self, answer: &Answer, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(b'a', &serde_json::to_vec(answer)?, fds, SendFlags::empty())
    }

    /// Sends output without waiting: an error of kind `WouldBlock` says that the client is slower than the container.
    pub(crate) fn output(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let kind = if stream == Stream::Stdout { b'o' } else { b'e' };
        self.send(kind, bytes, &[], SendFlags::DONTWAIT)
    }

    fn send(&self, kind: u8, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        let kind = [kind];
        let parts = [IoSlice::new(&kind), IoSlice::new(bytes)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let sent = rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &parts, &mut ancillary, flags | SendFlags::NOSIGNAL)
        });
        Ok(sent.map(drop)?)
    }

    /// The next message; `None` when the other side closed the connection.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        let mut buffer = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let length = match received {
            Ok(received) => received.bytes,
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(e) => return Err(e.into()),
        };
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        let Some((kind, body)) = buffer[..length].split_first() else { return Ok(None) };
        Ok(Some(match kind {
            b'q' => Message::Request(serde_json::from_slice(body)?, fds),
            b'a' => Message::Answer(serde_json::from_slice(body)?, fds),
            b'o' => Message::Output(Stream::Stdout, body.to_vec()),
            b'e' => Message::Output(Stream::Stderr, body.to_vec()),
            _ => return Err(io::Error::other("a message of an unknown kind")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_ride_along_and_the_end_is_told() {
        let (a, b) = Channel::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.answer(&Answer::Done, &[writer.as_fd()]).unwrap();
        let Some(Message::Answer(Answer::Done, fds)) = b.receive().unwrap() else { panic!("no answer") };
        rustix::io::write(&fds[0], b"x").unwrap();
        drop((fds, writer));
        let mut buffer = [0; 4];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 1);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 0, "no copy is left");
        drop(a);
        assert!(b.receive().unwrap().is_none());
    }

    #[test]
    fn output_never_waits_for_a_slow_client() {
        let (a, _b) = Channel::pair().unwrap();
        let error = loop {
            if let Err(error) = a.output(Stream::Stdout, &[0; CHUNK]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        let (a, b) = Channel::pair().unwrap();
        for (kind, body) in [(b'q', &b"{"[..]), (b'?', b""), (b'a', b"\xff")] {
            a.send(kind, body, &[], SendFlags::empty()).unwrap();
            assert!(b.receive().is_err());
        }
    }
}
