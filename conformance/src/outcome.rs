//! How a case ends.

use std::fmt;

use mica_core::Error;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The driver keeps the promise.
    Passed,
    /// It does not; the text says what was expected and what was found.
    Failed(String),
    /// The host lacks what it takes to tell; the text is the lack, in the driver's or the kernel's words.
    Skipped(String),
}

/// What ends a case early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// See [`Outcome::Failed`].
    Failed(String),
    /// See [`Outcome::Skipped`].
    Skipped(String),
}

/// The result of a case, or of a step of one.
pub type Verdict<T = ()> = Result<T, Stop>;

impl Stop {
    /// A failure.
    pub fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }

    /// The same, told as part of something greater.
    pub fn within(self, what: impl fmt::Display) -> Self {
        match self {
            Self::Failed(text) => Self::Failed(format!("{what}: {text}")),
            skipped @ Self::Skipped(_) => skipped,
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Ok(()) => Self::Passed,
            Err(Stop::Failed(text)) => Self::Failed(text),
            Err(Stop::Skipped(reason)) => Self::Skipped(reason),
        }
    }
}

/// Says what was being done when something failed.
pub(crate) trait Doing<T> {
    /// Ends the case with `WHAT: ERROR`.
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Verdict<T>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Verdict<T> {
        self.map_err(|error| Stop::Failed(format!("{}: {error}", what())))
    }
}

/// Ends the case as failed unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::outcome::Stop::failed(format!($($text)+)));
        }
    };
}

/// Ends the case as failed unless the call answers with this variant of the contract's errors.
macro_rules! refused {
    ($call:expr, $variant:ident, $($what:tt)+) => {
        match $call {
            Err(::mica_core::Error::$variant { .. }) => {}
            Err(other) => {
                return Err($crate::outcome::Stop::failed(format!(
                    "{} answered '{other}' ({}), expected {}",
                    format_args!($($what)+), $crate::outcome::variant(&other), stringify!($variant),
                )));
            }
            Ok(_) => {
                return Err($crate::outcome::Stop::failed(format!(
                    "{} succeeded, expected {}", format_args!($($what)+), stringify!($variant),
                )));
            }
        }
    };
}

pub(crate) use {ensure, refused};

/// The variant's name, by which a caller decides.
pub(crate) fn variant(error: &Error) -> String {
    let debug = format!("{error:?}");
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
