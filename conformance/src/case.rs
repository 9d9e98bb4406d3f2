//! One sentence of the contract, and how it is checked.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mica_core::{Capabilities, Support};

use crate::bench::Bench;
use crate::outcome::{Outcome, Stop, Verdict};
use crate::room::{Room, Subject};

/// A check of one promise.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, unlike any other: lower-case words joined by `-`.
    pub name: &'static str,
    /// The sentence of the contract that it checks.
    pub promise: &'static str,
    /// The capability that the promise depends on, if it does.
    pub gate: Option<Gate>,
    /// Checks it, for a driver that claims the capability.
    pub run: fn(Bench<'_>) -> Verdict,
}

/// What divides drivers in those for which a promise holds and those that do something else, which is checked too.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The capability.
    pub capability: Capability,
    /// Checks what a driver promises that does not claim it.
    pub otherwise: fn(Bench<'_>) -> Verdict,
}

/// A claim of [`Capabilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`Capabilities::quota_bytes`].
    QuotaBytes,
    /// [`Capabilities::quota_inodes`].
    QuotaInodes,
    /// [`Capabilities::id_maps`].
    IdMaps,
    /// [`Capabilities::max_depth`] names a number.
    MaxDepth,
    /// [`Capabilities::detached_apply`].
    DetachedApply,
    /// [`Capabilities::duplicate`].
    Duplicate,
    /// [`Capabilities::shared_data`].
    SharedData,
    /// [`Posix::rename_lower_dirs`](mica_core::graphdriver::Posix::rename_lower_dirs).
    RenameLowerDirs,
    /// [`Posix::coherent_open`](mica_core::graphdriver::Posix::coherent_open).
    CoherentOpen,
    /// [`Posix::lower_hard_links`](mica_core::graphdriver::Posix::lower_hard_links).
    LowerHardLinks,
}

impl Capability {
    /// Whether a driver claims it.
    pub fn claimed(self, by: &Capabilities) -> bool {
        match self {
            Self::QuotaBytes => by.quota_bytes.is_yes(),
            Self::QuotaInodes => by.quota_inodes.is_yes(),
            Self::IdMaps => by.id_maps.is_yes(),
            Self::MaxDepth => by.max_depth.is_some(),
            Self::DetachedApply => by.detached_apply,
            Self::Duplicate => by.duplicate,
            Self::SharedData => by.shared_data,
            Self::RenameLowerDirs => by.posix.rename_lower_dirs,
            Self::CoherentOpen => by.posix.coherent_open,
            Self::LowerHardLinks => by.posix.lower_hard_links,
        }
    }
}

impl Case {
    /// Runs it in a new directory of the subject, which is gone afterwards.
    pub fn run(&self, subject: Subject<'_>) -> Outcome {
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let room = Room::new(subject)?;
            let bench = Bench::open(&room)?;
            match self.gate {
                Some(gate) if !gate.capability.claimed(bench.capabilities()) => (gate.otherwise)(bench),
                _ => (self.run)(bench),
            }
        }));
        match tried {
            Ok(verdict) => verdict.into(),
            Err(payload) => Outcome::Failed(format!("panicked: {}", panic_text(&*payload))),
        }
    }
}

pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("with a value that is no text")
}

/// Ends a case that nothing is left of where the host lacks the feature, with the driver's reason.
pub(crate) fn skipped_for(support: &Support) -> Verdict {
    match support {
        Support::Yes => Ok(()),
        Support::No { reason } => Err(Stop::Skipped(reason.clone())),
    }
}
