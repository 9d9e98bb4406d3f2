//! The contract of a network driver as a list of cases, for any driver, in this tree or not.
//!
//! Each case checks one sentence of [`mica_core::network`], on a host of its own: a new network namespace with an uplink to a
//! machine outside, which is another one. It attaches containers, which are namespaces too, looks at what the kernel then has,
//! and sends real packets. Nothing touches the machine's own interfaces, rules or settings.
//!
//! ```text
//! // tests/conformance.rs, with `[[test]] name = "conformance" harness = false` in Cargo.toml
//! fn main() -> std::process::ExitCode {
//!     mica_conformance::network::harness::main(&hello_network::NETWORK)
//! }
//! ```

mod case;
mod cases;
pub mod harness;
pub mod kernel;
mod namespace;
mod snapshot;
mod stage;
mod traffic;

use std::path::Path;

use mica_core::network::OwnerId;
use mica_core::{Error, NetworkEntry, OptionMap, Result};

use crate::{Outcome, Summary};

pub use case::{Capability, Case, Gate};
pub use cases::cases;
pub use namespace::{Namespace, enter_new};
pub use stage::{Placed, Stage};

/// What is tested: a driver, opened with these settings.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The driver, as its crate exports it.
    pub entry: &'a NetworkEntry,
    /// The settings that it is opened with.
    pub settings: &'a OptionMap,
    /// The options of every network.
    pub options: &'a OptionMap,
    /// An existing directory. Each case makes its own below it, and removes it.
    pub root: &'a Path,
}

impl Subject<'_> {
    /// Whether the driver opens on a host as the cases have it, with its own error where it does not.
    pub fn available(&self) -> Result<()> {
        let dir = tempfile::Builder::new().prefix("mica-conformance-").tempdir_in(self.root);
        let dir = dir.map_err(Error::io(|| format!("make a directory in '{}'", self.root.display())))?;
        let host = Namespace::new().map_err(Error::io(|| "make a network namespace, which takes root"))?;
        let mut opened = Ok(());
        host.inside(|| {
            let owner = OwnerId::from_bytes(stage::OWNER);
            opened = (self.entry.open)(owner, dir.path(), self.settings).map(drop);
            Ok(())
        })
        .map_err(Error::io(|| "enter a network namespace"))?;
        opened
    }
}

/// Runs every case, one after another, and reports each as it ends.
///
/// Needs root, and leaves nothing below [`Subject::root`] or in the kernel. Fails before the first case with the error of the
/// driver's `open`, so with [`Unavailable`](Error::Unavailable) where the host lacks what the driver needs.
pub fn run(subject: Subject<'_>, report: &mut dyn FnMut(&Case, &Outcome)) -> Result<Summary> {
    subject.available()?;
    let mut summary = Summary::default();
    for case in cases() {
        let outcome = case.run(subject);
        summary.count(&outcome);
        report(case, &outcome);
    }
    Ok(summary)
}
