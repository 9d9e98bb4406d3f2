//! What is asked of the kernel, and how it refuses.

use std::io;

use mica_core::Error;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;

/// One request with the words for it, as in `make bridge 'mica0'`.
pub(crate) struct Request {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
    pub(super) doing: String,
}

/// What the kernel said of one request.
pub(crate) type Answer = Result<Vec<RouteNetlinkMessage>, Refused>;

impl Request {
    /// Changes, removes or asks for what is there.
    pub(crate) fn new(message: RouteNetlinkMessage, doing: impl Into<String>) -> Self {
        Self { message, flags: NLM_F_REQUEST | NLM_F_ACK, doing: doing.into() }
    }

    /// Makes what must not be there yet.
    pub(crate) fn create(message: RouteNetlinkMessage, doing: impl Into<String>) -> Self {
        let mut request = Self::new(message, doing);
        request.flags |= NLM_F_CREATE | NLM_F_EXCL;
        request
    }

    /// Makes what may be there already, and then becomes this.
    pub(crate) fn replace(message: RouteNetlinkMessage, doing: impl Into<String>) -> Self {
        let mut request = Self::new(message, doing);
        request.flags |= NLM_F_CREATE | NLM_F_REPLACE;
        request
    }
}

/// A request that the kernel did not carry out, or that did not reach it.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// What was asked.
    pub(crate) doing: String,
    /// Why, for programs.
    pub(crate) errno: Errno,
    /// Why, for people, where the kernel said more than a number.
    pub(crate) hint: Option<String>,
}

impl Refused {
    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Self { doing: doing.to_owned(), errno, hint: None }
    }

    pub(super) fn errno(doing: &str, code: i32) -> Self {
        let errno = Errno::from_raw_os_error(code.saturating_abs());
        Self { doing: doing.to_owned(), errno, hint: None }
    }

    /// An answer that cannot be read.
    pub(super) fn garbled(doing: &str, why: &str) -> Self {
        Self { doing: doing.to_owned(), errno: Errno::BADMSG, hint: Some(why.to_owned()) }
    }

    pub(super) fn told(doing: String, error: &ErrorMessage) -> Self {
        let errno = Errno::from_raw_os_error(error.raw_code().saturating_abs());
        Self { doing, errno, hint: extended(&error.header) }
    }
}

/// The kernel's own words, which follow the header of the request (`NLMSGERR_ATTR_MSG`).
fn extended(answer: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const MESSAGE: u16 = 1;
    let said = NlasIterator::new(answer.get(HEADER..)?).flatten().find(|said| said.kind() == MESSAGE)?;
    let text = String::from_utf8_lossy(said.value());
    Some(text.trim_end_matches('\0').to_owned())
}

impl From<Refused> for Error {
    fn from(Refused { doing, errno, hint }: Refused) -> Self {
        match hint {
            None => Self::driver(doing, io::Error::from(errno)),
            Some(hint) => Self::driver(doing, format!("{} ({hint})", io::Error::from(errno))),
        }
    }
}
