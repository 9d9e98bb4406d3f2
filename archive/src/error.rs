//! What can go wrong with a layer tarball, one variant per decision that a caller can take.

use std::io;

/// The result of an archive operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a layer tarball was not read, extracted or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not what it says it is: a bad header, a truncated file, a broken compressed block.
    #[error("{what}, byte {offset}: {reason}")]
    Corrupt {
        /// The part that is broken, such as `tar header`.
        what: &'static str,
        /// Where in that stream, as far as it was read: for compressed data in what came out of it.
        offset: u64,
        /// What was found, and what was expected.
        reason: String,
    },
    /// A member asks for something that a layer may not hold: a path out of the root, an `overlay.*` attribute.
    #[error("archive member '{path}' refused: {reason}")]
    Refused {
        /// The member, with unprintable bytes escaped.
        path: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// A member has an extended attribute that this host cannot keep, and the policy is to keep all. With the other policy
    /// ([`UnsupportedXattrs::Warn`](crate::apply::UnsupportedXattrs)) the layer can be applied without it.
    #[error("archive member '{path}' has an attribute that cannot be kept: {reason}")]
    Attribute {
        /// The member, with unprintable bytes escaped.
        path: String,
        /// Which attribute, and why.
        reason: String,
    },
    /// A limit was reached that protects the host: window, header, ratio.
    #[error("archive refused: {what} is {found}, more than the limit of {limit}")]
    Limit {
        /// What is limited, with its unit.
        what: &'static str,
        /// What the archive asks for.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The content is not what its digest says: nothing of it may be used.
    #[error("{what} is {found}, expected {expected}")]
    Digest {
        /// Which digest, such as `DiffID`.
        what: &'static str,
        /// `sha256:…` as computed.
        found: String,
        /// `sha256:…` as promised.
        expected: String,
    },
    /// The file system or a stream failed. `NoSpace` and quota errors arrive here with their errno.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the member's path where there is one.
        doing: String,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// Attaches what was being done to an input or output error. An archive error that came through a `Read`
    /// wrapped in one is unpacked instead: it says more.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => Self::Io { doing: doing.into(), source },
        }
    }
}
