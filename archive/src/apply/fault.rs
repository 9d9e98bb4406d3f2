//! What stops a member, said before the member's name is at hand.

use std::io;

use rustix::io::Errno;

use crate::Error;

/// How many bytes of a name are shown.
const NAME_SHOWN: usize = 400;

pub(super) type Attempt<T = ()> = Result<T, Fault>;

/// An error without its member; [`Fault::of`] adds the name.
#[derive(Debug)]
pub(super) enum Fault {
    /// The member asks for what a layer may not hold.
    Refused(String),
    /// It has an attribute that cannot be kept, and that was not to be left out.
    Attribute(String),
    /// A call failed while this was being done.
    Io(&'static str, io::Error),
    /// Said in full already.
    Said(Error),
}

impl Fault {
    pub(super) fn of(self, member: &[u8]) -> Error {
        let path = if member.is_empty() { "/".into() } else { printable(member) };
        match self {
            Self::Refused(reason) => Error::Refused { path, reason },
            Self::Attribute(reason) => Error::Attribute { path, reason },
            Self::Io(doing, source) => {
                Error::Io { doing: format!("{doing} archive member '{path}'"), source }
            }
            Self::Said(error) => error,
        }
    }

    /// An error of the stream that the content comes from. It may carry one of ours, which says more.
    pub(super) fn content(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(ours) => Self::Said(ours),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Refused("the archive ends before its content does".into())
            }
            Err(error) => Self::Io("reading the content of", error),
        }
    }
}

/// Attaches what was being done, to be read before "archive member 'x'".
pub(super) fn failed(doing: &'static str) -> impl FnOnce(Errno) -> Fault {
    move |errno| match errno {
        Errno::NAMETOOLONG => {
            Fault::Refused("a name in it is longer than the file system takes (255 bytes)".into())
        }
        errno => Fault::Io(doing, errno.into()),
    }
}

pub(super) fn refuse<T>(reason: impl Into<String>) -> Attempt<T> {
    Err(Fault::Refused(reason.into()))
}

/// A name for a message: readable text stays, control characters and bytes that are no UTF-8 are escaped. Of a
/// very long one only the ends remain.
pub(super) fn printable(name: &[u8]) -> String {
    if name.len() > NAME_SHOWN {
        let (start, end) = (&name[..NAME_SHOWN / 2], &name[name.len() - NAME_SHOWN / 2..]);
        return format!("{}…{}", printable(start), printable(end));
    }
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}
