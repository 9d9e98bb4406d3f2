//! The good network driver with one thing wrong.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::path::Path;

use mica_conformance::Outcome;
use mica_conformance::network::{Subject, cases};
use mica_core::network::{
    Attachment, Endpoint, HostChange, NetCapabilities, Network, NetworkDriver, Owned, OwnerId, Raised,
};
use mica_core::{NetworkEntry, OptionMap, Result};

use crate::plain::Plain;

/// What is wrong. Each method is the driver's own, which does the right thing where it is not replaced.
pub(crate) trait Fault: Debug + Default + Send + Sync + 'static {
    /// What it calls itself.
    const NAME: &'static str = "broken";
    /// Whether neighbours are told who has an address now.
    const ANNOUNCES: bool = true;
    /// The settings that it looks at, of those that were given.
    fn understood(given: &OptionMap) -> OptionMap {
        given.clone()
    }
    fn opened(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }
    fn claims(_honest: &mut NetCapabilities) {}
    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        plain.plan(wanted)
    }
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        plain.up(net)
    }
    fn down(&self, plain: &Plain, net: &Network) -> Result<()> {
        plain.down(net)
    }
    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        plain.attach(net, ep, ns)
    }
    fn update(
        &self,
        plain: &Plain,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        plain.update(net, was, ep, ns)
    }
    fn check(
        &self,
        plain: &Plain,
        net: &Network,
        ep: &Endpoint,
        was: &Attachment,
        ns: BorrowedFd<'_>,
    ) -> Result<()> {
        plain.check(net, ep, was, ns)
    }
    fn detach(
        &self,
        plain: &Plain,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        ns: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        plain.detach(net, ep, was, ns)
    }
    fn list(&self, plain: &Plain) -> Result<Vec<Owned>> {
        plain.list()
    }
    fn restore(&self, plain: &Plain) -> Result<Vec<HostChange>> {
        plain.restore()
    }
}

#[derive(Debug)]
struct Broken<F> {
    plain: Plain,
    capabilities: NetCapabilities,
    fault: F,
}

fn open<F: Fault>(owner: OwnerId, dir: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>> {
    let mut plain = Plain::open(F::NAME, owner, dir, &F::understood(settings))?;
    plain.announces = F::ANNOUNCES;
    let mut capabilities = plain.capabilities().clone();
    F::claims(&mut capabilities);
    let fault = F::default();
    fault.opened(dir)?;
    Ok(Box::new(Broken { plain, capabilities, fault }))
}

impl<F: Fault> NetworkDriver for Broken<F> {
    fn name(&self) -> &str {
        self.plain.name()
    }
    fn capabilities(&self) -> &NetCapabilities {
        &self.capabilities
    }
    fn status(&self) -> Result<Vec<(String, String)>> {
        self.plain.status()
    }
    fn plan(&self, wanted: Network) -> Result<Network> {
        self.fault.plan(&self.plain, wanted)
    }
    fn up(&self, net: &Network) -> Result<Raised> {
        self.fault.up(&self.plain, net)
    }
    fn down(&self, net: &Network) -> Result<()> {
        self.fault.down(&self.plain, net)
    }
    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        self.fault.attach(&self.plain, net, ep, ns)
    }
    fn update(
        &self,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        self.fault.update(&self.plain, net, was, ep, ns)
    }
    fn check(&self, net: &Network, ep: &Endpoint, was: &Attachment, ns: BorrowedFd<'_>) -> Result<()> {
        self.fault.check(&self.plain, net, ep, was, ns)
    }
    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        ns: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        self.fault.detach(&self.plain, net, ep, was, ns)
    }
    fn list(&self) -> Result<Vec<Owned>> {
        self.fault.list(&self.plain)
    }
    fn restore(&self) -> Result<Vec<HostChange>> {
        self.fault.restore(&self.plain)
    }
}

/// Runs these cases on the driver with this fault, and fails unless each of them does.
pub(crate) fn is_caught_by<F: Fault>(expected: &[&str]) {
    let entry = NetworkEntry {
        name: "broken",
        about: "the plain driver with a fault",
        options: &[],
        settings: &[],
        open: open::<F>,
    };
    let dir = tempfile::tempdir().unwrap();
    let none = OptionMap::new();
    let subject = Subject { entry: &entry, settings: &none, options: &none, root: dir.path() };
    for name in expected {
        let case = cases().find(|case| case.name == *name).unwrap();
        let outcome = case.run(subject);
        assert!(matches!(outcome, Outcome::Failed(_)), "missed by {name}: {outcome:?}");
    }
}

/// Declares a test for each of these drivers, which it is that these cases fail, and the list of all of them.
macro_rules! caught {
    ($($test:ident: $fault:ident => [$($case:literal),+ $(,)?];)+) => {
        $(#[test]
        fn $test() {
            $crate::fault::is_caught_by::<$fault>(&[$($case),+]);
        })+

        /// The cases that fail for a driver here.
        pub(crate) const CAUGHT: &[&str] = &[$($($case),+),+];
    };
}
