//! The errors of a driver: one variant for each decision that a caller can take.
//!
//! Text is for people: lower case, names the thing, says what would work. What a caller decides by is the variant,
//! never the text.

use std::io;

/// The result of a driver's or a store's operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation on a layer or a driver failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such thing. The caller may go on as if it had been removed.
    #[error("{what} does not exist")]
    NotFound {
        /// The thing with its kind, such as `layer 'x'`.
        what: String,
    },
    /// There is one already, and it was left as it is.
    #[error("{what} exists already")]
    AlreadyExists {
        /// The thing with its kind.
        what: String,
    },
    /// Somebody has it mounted or is changing it. The caller may wait, or end the user, and try again.
    #[error("{what} is in use by {by}")]
    InUse {
        /// The thing with its kind.
        what: String,
        /// Who uses it, as far as it is known: a process, a container.
        by: String,
    },
    /// The layer is in a state that forbids this: a committed one is never written, a writable one is never a parent.
    #[error("{what} is {state}: {rule}")]
    State {
        /// The thing with its kind.
        what: String,
        /// The state that it is in, such as `committed`.
        state: &'static str,
        /// The rule of the contract that forbids the operation.
        rule: &'static str,
    },
    /// This driver can never do that: its [`Capabilities`](crate::Capabilities) do not claim it.
    #[error("storage driver '{driver}' does not support {op}")]
    Unsupported {
        /// The driver's name.
        driver: String,
        /// The operation, named as the capability is.
        op: &'static str,
    },
    /// The host lacks what the driver needs: a kernel feature, a file system, a tool. An automatic choice goes on to
    /// the next driver, `mica drivers` prints the reason, a test is skipped with it.
    #[error("not available on this host: {reason}")]
    Unavailable {
        /// What is missing, and what would provide it.
        reason: String,
    },
    /// An option is unknown or its value cannot be used. The text lists those that can.
    #[error("{0}")]
    Options(String),
    /// The device is full. Nothing half-made is left; freeing space and trying again works.
    #[error("no space left on the device: {doing}")]
    NoSpace {
        /// What was being done.
        doing: String,
    },
    /// The layer's own limit is reached; the device may have room.
    #[error("the layer's quota is reached: {doing}")]
    Quota {
        /// What was being done.
        doing: String,
    },
    /// What is on disk is not what was put there. It must be repaired or removed before it is used.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// The thing with its kind.
        what: String,
        /// What was found.
        reason: String,
    },
    /// Any other failure; the caller can only report it.
    #[error("{doing}: {source}")]
    Driver {
        /// What was being done.
        doing: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Says what was being done when an input or output error came, and sorts out the full disk and the reached quota.
    /// Meant for `map_err`, so the text is made only on failure when a closure is given.
    pub fn io<D: Into<String>>(doing: impl FnOnce() -> D) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let doing = doing().into();
            match source.kind() {
                io::ErrorKind::StorageFull => Self::NoSpace { doing },
                io::ErrorKind::QuotaExceeded => Self::Quota { doing },
                _ => Self::Driver { doing, source: source.into() },
            }
        }
    }

    /// A failure that fits no other variant.
    pub fn driver(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Driver { doing: doing.into(), source: source.into() }
    }

    /// The layer of this id is unknown to the driver.
    pub fn no_layer(id: &crate::LayerId) -> Self {
        Self::NotFound { what: format!("layer '{id}'") }
    }

    /// A layer of this id is there already.
    pub fn layer_exists(id: &crate::LayerId) -> Self {
        Self::AlreadyExists { what: format!("layer '{id}'") }
    }

    /// The layer is committed, and the call would write it.
    pub fn committed(id: &crate::LayerId) -> Self {
        Self::State {
            what: format!("layer '{id}'"),
            state: "committed",
            rule: "a committed layer is never written; create a layer on top of it",
        }
    }

    /// The layer is writable, and the call needs it to be frozen.
    pub fn writable(id: &crate::LayerId) -> Self {
        Self::State {
            what: format!("layer '{id}'"),
            state: "writable",
            rule: "only a committed layer can be a parent; commit it first",
        }
    }
}
