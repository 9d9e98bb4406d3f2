//! Why the plugin does not do what it is asked for.

use serde_json::{Value, json};

use super::version::Version;
use crate::Error;

/// What a runtime decides by. Those below 100 are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Code {
    /// A version of the protocol that is not spoken here.
    Version = 1,
    /// A field of the configuration that is not known here.
    Field = 2,
    /// A container that is not connected.
    Container = 3,
    /// A variable of the environment.
    Variable = 4,
    /// Input or output.
    Io = 5,
    /// What was read is no JSON.
    Decode = 6,
    /// A configuration that cannot be used.
    Config = 7,
    /// The host lacks something.
    Unavailable = 50,
    /// Everything else.
    Other = 100,
    /// Somebody else has what was wished for: an address, a port.
    Taken = 101,
    /// The network takes no more.
    Full = 102,
    /// What is in the kernel is not what was put there.
    Damaged = 103,
}

/// An error, as a runtime reads it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    /// One line, for people.
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The configuration cannot be used.
    pub(super) fn config(text: impl Into<String>) -> Self {
        Self::new(Code::Config, text)
    }

    /// A variable of the environment cannot be used.
    pub(super) fn variable(name: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Code::Variable, format!("{name}: {why}"))
    }

    /// What belongs on standard output.
    pub(super) fn answer(&self, version: Version) -> Value {
        json!({ "cniVersion": version.to_string(), "code": self.code as u16, "msg": self.text })
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::new(code_of(&error), error.to_string())
    }
}

impl From<mica_core::Error> for Refusal {
    fn from(error: mica_core::Error) -> Self {
        Error::from(error).into()
    }
}

fn code_of(error: &Error) -> Code {
    use mica_core::Error as Driver;
    match error {
        Error::Doing { source, .. } => code_of(source),
        Error::Io { .. } => Code::Io,
        Error::Invalid(_) | Error::Storage(Driver::Options(_) | Driver::Unsupported { .. }) => Code::Config,
        Error::Storage(Driver::Unavailable { .. }) => Code::Unavailable,
        Error::Storage(Driver::InUse { .. } | Driver::AlreadyExists { .. }) => Code::Taken,
        Error::Storage(Driver::Full { .. }) => Code::Full,
        Error::Damaged { .. } | Error::Storage(Driver::Corrupt { .. }) => Code::Damaged,
        _ => Code::Other,
    }
}
