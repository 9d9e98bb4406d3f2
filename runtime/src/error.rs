//! What can go wrong, in the words of the person who asked for a container.

use std::fmt::Display;
use std::io;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a container could not be made, started, entered or removed.
///
/// After an error of [`create`](crate::Container::create) or [`exec`](crate::Container::exec) nothing of the
/// attempt is left: no process, no zombie, no control group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundle is contradictory, or asks for something that this runtime does not do.
    #[error("{0}")]
    Spec(String),
    /// A step of the set-up failed in the kernel.
    #[error("{what}: {source}")]
    Os {
        /// The step, with the name of its object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The command does not exist in the container.
    #[error("exec: {command:?}: {reason}")]
    NotFound {
        /// The command as it was given.
        command: String,
        /// Whether `PATH` or a file was searched.
        reason: String,
    },
    /// The command exists but cannot be run: a directory, no permission, not a program.
    #[error("exec: {command:?}: {reason}")]
    NotExecutable {
        /// The command as it was given.
        command: String,
        /// Why the kernel refuses it.
        reason: String,
    },
    /// The seccomp profile cannot be used.
    #[error(transparent)]
    Seccomp(#[from] crate::seccomp::Error),
    /// The container has no running process any more.
    #[error("the container is not running")]
    Stopped,
    /// Parts of a container could not be removed; the rest is gone, and a repeated call tries these again.
    /// After a failed creation the reason for that comes first.
    #[error("{}", list(.0))]
    Teardown(Vec<Error>),
}

impl Error {
    /// The exit status that a shell and `docker run` have for this: 127 command not found, 126 not
    /// executable, 125 for everything else.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Teardown(errors) => errors.first().map_or(125, Self::exit_status),
            _ => 125,
        }
    }

    /// `error`, and what failed while its leftovers were removed.
    pub(crate) fn with(error: Self, mut others: Vec<Self>) -> Self {
        if others.is_empty() {
            return error;
        }
        others.insert(0, error);
        Self::Teardown(others)
    }

    /// Fails if anything did.
    pub(crate) fn all(failures: Vec<Self>) -> Result<()> {
        if failures.is_empty() { Ok(()) } else { Err(Self::Teardown(failures)) }
    }

    pub(crate) fn spec(message: impl Into<String>) -> Self {
        Self::Spec(message.into())
    }

    /// As one message of the channel: a kind, an errno (0 for none) and up to two texts.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, errno, first, second) = match self {
            Self::NotFound { command, reason } => (b'n', 0, command.clone(), reason.as_str()),
            Self::NotExecutable { command, reason } => (b'x', 0, command.clone(), reason.as_str()),
            Self::Os { what, source } if source.raw_os_error().is_some() => {
                (b'o', source.raw_os_error().unwrap_or(0), what.clone(), "")
            }
            other => (b's', 0, other.to_string(), ""),
        };
        let mut bytes = vec![kind];
        bytes.extend(errno.to_ne_bytes());
        bytes.extend(first.replace('\0', " ").bytes());
        bytes.push(0);
        bytes.extend(second.bytes());
        bytes
    }

    /// What [`encode`](Self::encode) wrote; `None` when it is not that.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (errno, texts) = rest.split_first_chunk::<4>()?;
        let mut texts =
            texts.splitn(2, |byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let (first, second) = (texts.next()?, texts.next()?);
        Some(match kind {
            b'n' => Self::NotFound { command: first, reason: second },
            b'x' => Self::NotExecutable { command: first, reason: second },
            b'o' => {
                Self::Os { what: first, source: io::Error::from_raw_os_error(i32::from_ne_bytes(*errno)) }
            }
            b's' => Self::Spec(first),
            _ => return None,
        })
    }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Says what was being done when the kernel refused.
pub(crate) trait Context<T> {
    /// `what` names the step and its object, for example `mounting /proc`.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|source| Error::Os { what: what().to_string(), source: source.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_channel_with_its_exit_status() {
        let errors = [
            Error::NotFound { command: "nosuch".into(), reason: "executable file not found in $PATH".into() },
            Error::NotExecutable { command: "/etc".into(), reason: "is a directory".into() },
            Error::Os { what: "mounting /proc".into(), source: io::Error::from_raw_os_error(1) },
            Error::spec("no such thing"),
        ];
        for error in errors {
            let back = Error::decode(&error.encode()).unwrap();
            assert_eq!(back.to_string(), error.to_string());
            assert_eq!(back.exit_status(), error.exit_status());
        }
    }

    #[test]
    fn a_message_cut_short_is_not_taken_for_an_error() {
        let whole = Error::spec("text").encode();
        for length in 0..5 {
            assert!(Error::decode(&whole[..length]).is_none());
        }
    }
}
