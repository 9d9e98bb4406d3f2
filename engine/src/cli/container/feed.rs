//! Standard input on its way to a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::stdio::stdin;

use crate::{Error, Result};

/// Ctrl-P, Ctrl-Q: leaves a container without ending it.
const DETACH: [u8; 2] = [0x10, 0x11];

/// Takes what comes on standard input to a pipe or a terminal, without ever waiting for it.
#[derive(Debug)]
pub(super) struct Feed {
    to: OwnedFd,
    tty: bool,
    /// Read, and not yet taken.
    pending: Vec<u8>,
    /// The first of the keys that detach came, and was kept back.
    half: bool,
    /// There is no more.
    over: bool,
}

/// What came of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// More may come.
    More,
    /// All is said, or nobody listens: the feed is to be dropped, which is how the other side learns of it.
    Over,
    /// The keys that detach were pressed.
    Detach,
}

impl Feed {
    /// A feed of the writing side of a pipe, or of a terminal.
    pub(super) fn new(to: OwnedFd, tty: bool) -> Result<Self> {
        let flags = fcntl_getfl(&to).and_then(|flags| fcntl_setfl(&to, flags | OFlags::NONBLOCK));
        flags.map_err(|e| Error::io(|| "set up standard input")(e.into()))?;
        Ok(Self { to, tty, pending: Vec::new(), half: false, over: false })
    }

    /// What to wait for: standard input, or room on the other side.
    pub(super) fn waits_for(&self) -> (BorrowedFd<'_>, bool) {
        if self.pending.is_empty() { (stdin(), false) } else { (self.to.as_fd(), true) }
    }

    /// Moves what can be moved now.
    pub(super) fn turn(&mut self) -> Result<Fed> {
        if self.pending.is_empty() {
            let mut buffer = vec![0; 32 * 1024];
            match rustix::io::read(stdin(), &mut buffer[..]) {
                Ok(0) => self.over = true,
                Ok(length) => {
                    if self.take(&buffer[..length]) {
                        return Ok(Fed::Detach);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Fed::More),
                // A terminal that was hung up.
                Err(Errno::IO) => self.over = true,
                Err(e) => return Err(Error::io(|| "read standard input")(e.into())),
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<Fed> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.to, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Fed::More),
                Err(Errno::PIPE | Errno::IO) => return Ok(Fed::Over),
                Err(e) => return Err(Error::io(|| "write to the container")(e.into())),
            }
        }
        Ok(if self.over { Fed::Over } else { Fed::More })
    }

    /// Keeps bytes for the other side; true when they end with the keys that detach.
    fn take(&mut self, bytes: &[u8]) -> bool {
        if !self.tty {
            self.pending.extend_from_slice(bytes);
            return false;
        }
        for &byte in bytes {
            if std::mem::take(&mut self.half) {
                if byte == DETACH[1] {
                    return true;
                }
                self.pending.push(DETACH[0]);
            }
            if byte == DETACH[0] {
                self.half = true;
            } else {
                self.pending.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(tty: bool) -> (OwnedFd, Feed) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (reader, Feed::new(writer, tty).unwrap())
    }

    #[test]
    fn the_keys_that_detach_are_found_across_reads_and_nothing_else_is_lost() {
        let (_reader, mut feed) = feed(true);
        assert!(!feed.take(b"a\x10b\x10"));
        assert!(!feed.take(b"\x10"));
        assert!(feed.take(b"\x11"));
        assert_eq!(feed.pending, b"a\x10b\x10");
        let (_reader, mut feed) = self::feed(false);
        assert!(!feed.take(b"\x10\x11"));
        assert_eq!(feed.pending, b"\x10\x11", "a pipe carries any bytes");
    }

    #[test]
    fn a_full_pipe_does_not_hold_the_command_up_and_a_closed_one_ends_the_feed() {
        let (reader, mut feed) = feed(false);
        feed.take(&vec![0; 1 << 20]);
        assert_eq!(feed.flush().unwrap(), Fed::More);
        assert!(feed.waits_for().1, "room is waited for");
        drop(reader);
        assert_eq!(feed.flush().unwrap(), Fed::Over);
    }
}
