//! A TCP connection that carries messages, each with its length before it (RFC 1035, 4.2.2).

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;

/// The most that waits to be sent. Who reads none of its answers gets no more of them.
const MOST_WAITING: usize = 256 * 1024;
/// The most that is read at once, so that one connection does not keep others waiting.
const MOST_AT_ONCE: u64 = 64 * 1024;

/// A connection whose socket never blocks.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, input: Vec::new(), output: Vec::new(), ended: false })
    }

    /// The messages that have arrived whole.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<Vec<u8>>> {
        match (&self.socket).take(MOST_AT_ONCE).read_to_end(&mut self.input) {
            Ok(read) => self.ended = u64::try_from(read).is_ok_and(|read| read < MOST_AT_ONCE),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut messages = Vec::new();
        let mut rest = &self.input[..];
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let Some((message, behind)) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))
            else {
                break;
            };
            messages.push(message.to_vec());
            rest = behind;
        }
        let used = self.input.len() - rest.len();
        self.input.drain(..used);
        Ok(messages)
    }

    /// Sends a message, now or when [`flush`](Self::flush) is called again.
    pub(crate) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidData)?;
        self.output.extend(length.to_be_bytes());
        self.output.extend(message);
        self.flush()?;
        if self.output.len() > MOST_WAITING { Err(ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    }

    /// Sends what waits, as far as the other side takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The other side sends no more, and has all that it was sent.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.output.is_empty()
    }

    /// The other side sends no more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.ended);
        flags.set(EventFlags::OUT, !self.output.is_empty());
        flags
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
