//! The wire between the supervisor and a process that it is making: one socket pair, closed by exec.
//!
//! The child says `ready` or what failed; the supervisor says `go`; the child says what failed, or its end is
//! closed by a successful exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::error::{Context, Error, Result};

const READY: u8 = b'R';
const FAILED: u8 = b'F';
const GO: u8 = b'G';
/// No message is longer: a path and a sentence, or a few warnings.
const LONGEST: usize = 64 * 1024;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What a child has to say.
#[derive(Debug)]
pub(crate) enum Report {
    /// Everything before the exec is done.
    Ready { console: Option<OwnedFd>, warnings: Vec<String> },
    /// A step failed; the child is gone or about to be.
    Failed(Error),
    /// The child executed its command, or died.
    Closed,
}

impl Channel {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context(|| "making the socket pair to the new process")?;
        Ok((Self(ours), Self(theirs)))
    }

    pub(crate) fn send_ready(&self, console: Option<BorrowedFd<'_>>, warnings: &[String]) -> Result<()> {
        self.send(READY, warnings.join("\n").as_bytes(), console).context(|| "reporting to the supervisor")
    }

    /// Best effort: whoever does not hear it sees the channel close and the process end.
    pub(crate) fn send_failed(&self, error: &Error) {
        let _ = self.send(FAILED, &error.encode(), None);
    }

    pub(crate) fn send_go(&self) -> io::Result<()> {
        self.send(GO, &[], None)
    }

    /// Waits for the supervisor; an error means that it died.
    pub(crate) fn wait_for_go(&self) -> Result<()> {
        let (message, _) = self.receive().context(|| "waiting for the supervisor")?;
        match message.first() {
            Some(&GO) => Ok(()),
            _ => Err(Error::spec("the supervisor ended before it started the container")),
        }
    }

    pub(crate) fn report(&self) -> Result<Report> {
        let (message, console) = self.receive().context(|| "waiting for the new process")?;
        let Some((kind, text)) = message.split_first() else { return Ok(Report::Closed) };
        match *kind {
            READY => {
                let text = String::from_utf8_lossy(text);
                let warnings = text.lines().map(str::to_owned).collect();
                Ok(Report::Ready { console, warnings })
            }
            _ => Ok(Report::Failed(
                Error::decode(text).unwrap_or_else(|| Error::spec("the new process failed unintelligibly")),
            )),
        }
    }

    fn send(&self, kind: u8, text: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let text = &text[..text.len().min(LONGEST - 1)];
        let parts = [IoSlice::new(std::slice::from_ref(&kind)), IoSlice::new(text)];
        sendmsg(self.0.as_fd(), &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// An empty message is the end of the stream.
    fn receive(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = vec![0; LONGEST];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                self.0.as_fd(),
                &mut [IoSliceMut::new(&mut buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        buffer.truncate(received.bytes);
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok((buffer, fds.next().and_then(|mut fds| fds.next())))
    }
}
