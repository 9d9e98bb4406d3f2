//! The contract of a storage driver as a list of cases, for any driver, in this tree or not.
//!
//! A [`Case`] checks one sentence of [`mica_core::graphdriver`]. Most do it by making each change twice, in the
//! driver's mounted tree and in a plain directory, and comparing the two. Where a promise depends on a capability, the case
//! also knows what a driver that does not claim it must do instead, so that every driver runs every case.
//!
//! As a test of a driver's crate, each case a test of its own:
//!
//! ```text
//! // tests/conformance.rs, with `[[test]] name = "conformance" harness = false` in Cargo.toml
//! fn main() -> std::process::ExitCode {
//!     mica_conformance::harness::main(&hello_driver::DRIVER)
//! }
//! ```
//!
//! And from a program, on the user's own host: [`run`]. The contract of a network driver is checked by [`network`].

mod actor;
mod bench;
mod case;
mod cases;
mod difference;
mod files;
pub mod harness;
mod leftovers;
mod members;
mod mounted;
pub mod network;
mod outcome;
mod patience;
mod room;
mod script;
mod sys;
pub mod tree;
mod twin;

use mica_core::Result;

pub use bench::Bench;
pub use case::{Capability, Case, Gate};
pub use cases::cases;
pub use outcome::{Outcome, Stop, Verdict};
pub use room::Subject;

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Promises kept.
    pub passed: usize,
    /// Promises broken.
    pub failed: usize,
    /// Promises that this host cannot tell about.
    pub skipped: usize,
}

impl Summary {
    /// Whether no promise was found broken.
    pub fn is_good(&self) -> bool {
        self.failed == 0
    }

    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }
}

/// Runs every case, one after another, and reports each as it ends.
///
/// A driver with a FUSE helper has it served by this program: it is started again as `PROGRAM storage-helper DRIVER ARGUMENT…`.
///
/// Needs root, and leaves nothing below [`Subject::root`]. This process has a mount namespace of its own from then on, in
/// which nothing that is mounted for a case outlives it. Fails before the first case with the error of the driver's
/// `open`, so with [`Unavailable`](mica_core::Error::Unavailable) where the host lacks what the driver needs.
pub fn run(subject: Subject<'_>, report: &mut dyn FnMut(&Case, &Outcome)) -> Result<Summary> {
    subject.available()?;
    sys::leave_mount_namespace().map_err(mica_core::Error::io(|| "make a mount namespace"))?;
    let mut summary = Summary::default();
    for case in cases() {
        let outcome = case.run(subject);
        summary.count(&outcome);
        report(case, &outcome);
    }
    Ok(summary)
}
