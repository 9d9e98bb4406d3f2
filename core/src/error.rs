//! The errors of a driver: one variant for each decision that a caller can take.
//!
//! Text is for people: lower case, names the thing, says what would work. What a caller decides by is the variant,
//! never the text.

use std::io;

/// The result of an operation of a driver or a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of a driver failed.
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
    /// Somebody has it, or is changing it. The caller may wait, or end the user, and try again.
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
    /// This driver can never do that: its [`Capabilities`](crate::Capabilities) or
    /// [`NetCapabilities`](crate::network::NetCapabilities) do not claim it.
    #[error("driver '{driver}' does not support {op}")]
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
    /// It takes no more, whatever the device has room for. The caller may remove something from it, or take another
    /// one.
    #[error("{what} is full: it takes {limit}")]
    Full {
        /// The thing with its kind.
        what: String,
        /// How much it takes, of what.
        limit: String,
    },
    /// What is on disk or in the kernel is not what was put there. It must be repaired or removed before it is used.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// The thing with its kind.
        what: String,
        /// What was found.
        reason: String,
    },
    /// Something that was to be taken away is still there in part. The caller keeps the record of it and tries again;
    /// what is gone already is passed over then.
    #[error("{what} is not gone whole: {}", joined(.failures))]
    Incomplete {
        /// The thing with its kind.
        what: String,
        /// Everything that failed, in the order in which it was tried; never empty.
        failures: Vec<Error>,
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
    /// Says what was being done when an input or output error came, and sorts out the full disk and the reached
    /// quota. Meant for `map_err`, so the text is made only on failure when a closure is given.
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

    /// What a teardown answers that went on after each failure: whether there were any.
    pub fn unless_complete(what: impl Into<String>, failures: Vec<Self>) -> Result<()> {
        if failures.is_empty() { Ok(()) } else { Err(Self::Incomplete { what: what.into(), failures }) }
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

    /// The layer does not know its parents yet, and the call needs them.
    pub fn detached(id: &crate::LayerId) -> Self {
        Self::State {
            what: format!("layer '{id}'"),
            state: "detached",
            rule: "until its parents are known it is only filled; commit it first",
        }
    }
}

fn joined(failures: &[Error]) -> String {
    failures.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teardown_names_every_failure_on_one_line() {
        assert!(Error::unless_complete("endpoint 'a'", Vec::new()).is_ok());
        let failures = vec![
            Error::driver("remove link 'x'", "operation not permitted"),
            Error::InUse { what: "table 'y'".to_owned(), by: "process 7".to_owned() },
        ];
        assert_eq!(
            Error::unless_complete("endpoint 'a'", failures).unwrap_err().to_string(),
            "endpoint 'a' is not gone whole: remove link 'x': operation not permitted; table 'y' is in use by process 7"
        );
    }
}
