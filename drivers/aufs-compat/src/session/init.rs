//! The terms of a connection, which its first request and the reply to that settle.
//!
//! The library knows the protocol as it was before the kernel could read and write files by itself. So its reply is not
//! sent but written into a pipe, completed, and sent from here.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use rustix::thread::CapabilitySet;

use super::message::{HEAD, Head, Words, opcode};
use super::worker::{BUFFER, End, Next, dispatch, next};
use super::{Extra, Wishes};

/// The second word of flags is in use.
const INIT_EXT: u32 = 1 << 30;
/// An aborted connection is told from one that is unmounted.
const ABORT_ERROR: u32 = 1 << 21;
/// Whole pages are held back and written later. Excludes [`PASSTHROUGH`].
const WRITEBACK_CACHE: u32 = 1 << 16;
/// In the second word: files can be read and written through others.
const PASSTHROUGH: u32 = 1 << 5;

/// How many file systems may be stacked: the files that are read and written through lie on one that is not stacked itself, so
/// that the kernel still lets an overlay be put on top.
const STACKED: u32 = 1;

/// What was agreed upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Files can be read and written through others.
    pub(super) passthrough: bool,
}

/// Waits for the first request and answers it; nothing when the mount ended before it.
pub(super) fn negotiate<F: Extra>(
    channel: BorrowedFd<'_>,
    server: &Server<Arc<F>>,
    wishes: &Wishes,
) -> io::Result<Option<Terms>> {
    let mut request = vec![0; BUFFER];
    let length = match next(channel, &mut request)? {
        Next::Request(length) => length,
        Next::Nothing => return Err(io::ErrorKind::WouldBlock.into()),
        Next::End(End::Unmounted) => return Ok(None),
        Next::End(End::Aborted) => return Err(io::Error::from_raw_os_error(libc::ECONNABORTED)),
    };
    let request = &mut request[..length];
    if Head::of(request)?.opcode != opcode::INIT {
        return Err(io::Error::other("the connection is served by somebody already"));
    }
    let offer = Offer::of(request)?;
    let mut reply = answer_of_library(server, request)?;
    let terms = complete(&mut reply, offer, wishes.passthrough && may_pass_through())?;
    rustix::io::write(channel, &reply)?;
    Ok(Some(terms))
}

/// What the kernel can do.
#[derive(Clone, Copy, Debug)]
struct Offer {
    flags: u32,
    flags2: u32,
}

impl Offer {
    fn of(request: &[u8]) -> io::Result<Self> {
        let mut words = Words(request.get(HEAD..).unwrap_or_default());
        let (_major, _minor, _readahead, flags) =
            (words.word()?, words.word()?, words.word()?, words.word()?);
        let flags2 = if flags & INIT_EXT == 0 { 0 } else { words.word()? };
        Ok(Self { flags, flags2 })
    }
}

fn answer_of_library<F: Extra>(server: &Server<Arc<F>>, request: &mut [u8]) -> io::Result<Vec<u8>> {
    let (mut from, to) = io::pipe()?;
    let answered = dispatch(server, to.as_raw_fd(), request, &mut [0; 4096]);
    drop(to);
    answered.map_err(io::Error::other)?;
    let mut reply = Vec::new();
    from.read_to_end(&mut reply)?;
    Ok(reply)
}

/// Where the words of the reply are, by `struct fuse_init_out` after a head of 16 bytes.
const ERROR: usize = 4;
const FLAGS: usize = 28;
const FLAGS2: usize = 48;
const STACK_DEPTH: usize = 52;

/// Adds to the reply what the library does not know.
fn complete(reply: &mut [u8], offer: Offer, passthrough: bool) -> io::Result<Terms> {
    let refused = word(reply, ERROR)?.cast_signed();
    if refused != 0 {
        return Err(io::Error::from_raw_os_error(-refused));
    }
    let mut flags = word(reply, FLAGS)? | (offer.flags & ABORT_ERROR);
    let passthrough = passthrough && offer.flags2 & PASSTHROUGH != 0 && flags & WRITEBACK_CACHE == 0;
    if passthrough {
        flags |= INIT_EXT;
        set_word(reply, FLAGS2, word(reply, FLAGS2)? | PASSTHROUGH)?;
        set_word(reply, STACK_DEPTH, STACKED)?;
    }
    set_word(reply, FLAGS, flags)?;
    Ok(Terms { passthrough })
}

fn word(reply: &[u8], at: usize) -> io::Result<u32> {
    let mut rest = Words(reply.get(at..).unwrap_or_default());
    rest.word()
}

fn set_word(reply: &mut [u8], at: usize, word: u32) -> io::Result<()> {
    let place = reply.get_mut(at..at + 4).ok_or(io::ErrorKind::InvalidData)?;
    place.copy_from_slice(&word.to_ne_bytes());
    Ok(())
}

/// The kernel lets only an administrator of the host name files for that.
fn may_pass_through() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply of the library to a kernel, with these flags.
    fn reply(flags: u32) -> Vec<u8> {
        let mut reply = vec![0; 80];
        set_word(&mut reply, FLAGS, flags).unwrap();
        reply
    }

    fn terms(offer: Offer, flags: u32, wanted: bool) -> (Terms, u32, u32, u32) {
        let mut reply = reply(flags);
        let terms = complete(&mut reply, offer, wanted).unwrap();
        let word = |at| word(&reply, at).unwrap();
        (terms, word(FLAGS), word(FLAGS2), word(STACK_DEPTH))
    }

    const OLD: Offer = Offer { flags: 0, flags2: 0 };
    const NEW: Offer = Offer { flags: INIT_EXT | ABORT_ERROR, flags2: PASSTHROUGH };

    #[test]
    fn an_old_kernel_is_told_nothing_that_it_does_not_know() {
        assert_eq!(terms(OLD, 1, true), (Terms { passthrough: false }, 1, 0, 0));
    }

    #[test]
    fn passthrough_is_agreed_upon_where_it_is_offered_and_wanted() {
        let agreed = (Terms { passthrough: true }, 1 | INIT_EXT | ABORT_ERROR, PASSTHROUGH, STACKED);
        assert_eq!(terms(NEW, 1, true), agreed);
        assert_eq!(terms(NEW, 1, false), (Terms { passthrough: false }, 1 | ABORT_ERROR, 0, 0));
    }

    #[test]
    fn a_kernel_that_holds_pages_back_cannot_pass_through() {
        assert!(!terms(NEW, WRITEBACK_CACHE, true).0.passthrough);
    }

    #[test]
    fn a_refusal_of_the_file_system_is_an_error() {
        let mut reply = reply(0);
        set_word(&mut reply, ERROR, (-libc::EPROTO).cast_unsigned()).unwrap();
        assert_eq!(complete(&mut reply, NEW, true).unwrap_err().raw_os_error(), Some(libc::EPROTO));
        complete(&mut [0; 16], NEW, true).unwrap_err();
    }
}
