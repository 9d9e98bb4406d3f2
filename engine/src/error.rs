//! What can go wrong in the engine, told in one line to a person.

use std::io;

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an engine operation failed. The text is lower case, names the thing, and says what would work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A storage driver or its store refused or failed.
    #[error(transparent)]
    Storage(#[from] mica_core::Error),
    /// A layer tarball could not be read or written.
    #[error(transparent)]
    Archive(#[from] mica_archive::Error),
    /// The file system or a stream failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The cause.
        source: io::Error,
    },
    /// There is no such thing.
    #[error("no such {kind}: {name}")]
    NoSuch {
        /// Its kind, such as `image`.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// Something that exists or runs stands against it.
    #[error("conflict: {0}")]
    Conflict(String),
    /// What the user or an archive gave cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// What is on disk is not what was put there; `mica storage check` says more, and mends what can be mended.
    #[error("{what} is damaged: {reason}; 'mica storage check --repair' mends what can be mended")]
    Damaged {
        /// The thing with its kind.
        what: String,
        /// What was found.
        reason: String,
    },
    /// The data root was written by a newer Mica.
    #[error(
        "data root '{root}' has format {found}, this mica knows formats up to {known}: use a newer mica or another --root"
    )]
    Newer {
        /// The data root.
        root: String,
        /// The format that was found.
        found: u32,
        /// The newest one that is known.
        known: u32,
    },
    /// A container, or a process in one, could not be run.
    #[error("{text}")]
    Runtime {
        /// The exit status that a command ends with: 127 not found, 126 cannot be executed, 125 anything else.
        status: u8,
        /// Why.
        text: String,
    },
    /// The failure of a step, with what the step was for.
    #[error("{doing}: {source}")]
    Doing {
        /// What was being done.
        doing: String,
        /// The cause.
        source: Box<Error>,
    },
}

impl Error {
    /// Says what was being done when an input or output error came. Meant for `map_err`; the text is made only on
    /// failure.
    pub fn io<D: Into<String>>(doing: impl FnOnce() -> D) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing: doing().into(), source }
    }

    /// Something of this kind and name does not exist.
    pub fn no_such(kind: &'static str, name: impl Into<String>) -> Self {
        Self::NoSuch { kind, name: name.into() }
    }

    /// Something on disk cannot be what was put there.
    pub fn damaged(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Damaged { what: what.into(), reason: reason.to_string() }
    }

    /// Says what the failed step was for. Meant for `map_err`.
    pub fn doing<E: Into<Self>, D: Into<String>>(doing: impl FnOnce() -> D) -> impl FnOnce(E) -> Self {
        move |source| Self::Doing { doing: doing().into(), source: Box::new(source.into()) }
    }
}

/// What somebody else wrote, on a part of a line.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
