//! One sentence of the contract, and how it is checked.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use mica_core::network::{Addressing, NetCapabilities};

use super::Subject;
use super::namespace::enter_new;
use super::stage::Stage;
use crate::case::panic_text;
use crate::outcome::{Doing, Outcome, Stop, Verdict};

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
    pub run: fn(&Stage<'_>) -> Verdict,
}

/// What divides drivers in those for which a promise holds and those that do something else, which is checked too.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The capability.
    pub capability: Capability,
    /// Checks what a driver promises that does not claim it.
    pub otherwise: fn(&Stage<'_>) -> Verdict,
}

/// A claim of [`NetCapabilities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`NetCapabilities::addressing`] is not [`Addressing::None`], so that endpoints have interfaces.
    Addresses,
    /// [`NetCapabilities::addressing`] is [`Addressing::Engine`].
    GivenAddresses,
    /// [`NetCapabilities::ipv6`].
    Ipv6,
    /// [`NetCapabilities::ports`].
    Ports,
    /// [`NetCapabilities::internal`].
    Internal,
    /// [`NetCapabilities::shielded`], by a driver whose endpoints have addresses.
    Shielded,
    /// [`NetCapabilities::mac`].
    Mac,
    /// [`NetCapabilities::live`].
    Live,
    /// [`NetCapabilities::max_endpoints`] names a number.
    MaxEndpoints,
}

impl Capability {
    /// Whether a driver claims it.
    pub fn claimed(self, by: &NetCapabilities) -> bool {
        let has_addresses = by.addressing != Addressing::None;
        match self {
            Self::Addresses => has_addresses,
            Self::GivenAddresses => by.addressing == Addressing::Engine,
            Self::Ipv6 => by.ipv6.is_yes(),
            Self::Ports => by.ports.is_yes(),
            Self::Internal => by.internal.is_yes(),
            Self::Shielded => by.shielded && has_addresses,
            Self::Mac => by.mac,
            Self::Live => by.live,
            Self::MaxEndpoints => by.max_endpoints.is_some(),
        }
    }
}

impl Case {
    /// Runs it on a new host, of which nothing is left afterwards.
    pub fn run(&self, subject: Subject<'_>) -> Outcome {
        // The namespace ends with the thread and its descriptors, whatever a driver left in it.
        let ended = thread::scope(|scope| {
            let host = thread::Builder::new().spawn_scoped(scope, || self.on_new_host(subject))?;
            io::Result::Ok(host.join())
        });
        match ended {
            Ok(Ok(verdict)) => verdict.into(),
            Ok(Err(payload)) => Outcome::Failed(format!("panicked: {}", panic_text(&*payload))),
            Err(error) => Outcome::Failed(format!("start a thread: {error}")),
        }
    }

    fn on_new_host(&self, subject: Subject<'_>) -> Verdict {
        enter_new().doing(|| "make a network namespace, which takes root")?;
        let stage = Stage::new(subject)?;
        let tried = catch_unwind(AssertUnwindSafe(|| match self.gate {
            Some(gate) if !gate.capability.claimed(stage.can()) => (gate.otherwise)(&stage),
            _ => (self.run)(&stage),
        }));
        tried.unwrap_or_else(|payload| Err(Stop::failed(format!("panicked: {}", panic_text(&*payload)))))
    }
}

/// For a driver without the capability there is nothing to promise.
pub(crate) fn nothing(_: &Stage<'_>) -> Verdict {
    Ok(())
}
