//! The good driver with one thing wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use mica_conformance::{Outcome, Subject};
use mica_core::{
    Access, Capabilities, Chain, Changes, Created, DriverEntry, GraphDriver, LayerId, LayerOptions,
    MountRequest, Mounts, OptionMap, Result, Trees, Usage,
};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::plain::Plain;

/// What is wrong. Each method is the driver's own, which does the right thing where it is not replaced.
pub(crate) trait Fault: Debug + Default + Send + Sync + 'static {
    /// What it calls itself.
    const NAME: &'static str = "broken";
    /// The options that it looks at, of those that were given.
    fn understood(given: &OptionMap) -> OptionMap {
        given.clone()
    }
    fn opened(&self, _plain: &Plain, _root: &Path) -> Result<()> {
        Ok(())
    }
    fn claims(_honest: &mut Capabilities) {}
    fn check(&self, plain: &Plain) -> Result<Vec<String>> {
        plain.check()
    }
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        plain.create(chain, options)
    }
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        plain.mounts(chain, request)
    }
    fn release(&self, plain: &Plain, chain: Chain<'_>, access: Access) -> Result<()> {
        plain.release(chain, access)
    }
    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        plain.commit(chain)
    }
    fn sync(&self, plain: &Plain, layers: &[LayerId]) -> Result<()> {
        plain.sync(layers)
    }
    fn duplicate(&self, plain: &Plain, from: Chain<'_>, to: &LayerId) -> Result<()> {
        plain.duplicate(from, to)
    }
    fn changes(&self, plain: &Plain, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        plain.changes(chain, trees)
    }
    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        plain.usage(chain)
    }
    fn layer_status(&self, plain: &Plain, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        plain.layer_status(chain)
    }
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        plain.remove(id)
    }
    fn list(&self, plain: &Plain) -> Result<Vec<LayerId>> {
        plain.list()
    }
}

#[derive(Debug)]
struct Broken<F> {
    plain: Plain,
    capabilities: Capabilities,
    fault: F,
}

fn open<F: Fault>(root: &Path, options: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let plain = Plain::open(F::NAME, root, &F::understood(options))?;
    let mut capabilities = plain.capabilities().clone();
    F::claims(&mut capabilities);
    let fault = F::default();
    fault.opened(&plain, root)?;
    Ok(Box::new(Broken { plain, capabilities, fault }))
}

impl<F: Fault> GraphDriver for Broken<F> {
    fn name(&self) -> &str {
        self.plain.name()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn status(&self) -> Result<Vec<(String, String)>> {
        self.plain.status()
    }
    fn check(&self) -> Result<Vec<String>> {
        self.fault.check(&self.plain)
    }
    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        self.fault.create(&self.plain, chain, options)
    }
    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.fault.mounts(&self.plain, chain, request)
    }
    fn release(&self, chain: Chain<'_>, access: Access) -> Result<()> {
        self.fault.release(&self.plain, chain, access)
    }
    fn commit(&self, chain: Chain<'_>) -> Result<()> {
        self.fault.commit(&self.plain, chain)
    }
    fn sync(&self, layers: &[LayerId]) -> Result<()> {
        self.fault.sync(&self.plain, layers)
    }
    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()> {
        self.fault.duplicate(&self.plain, from, to)
    }
    fn changes(&self, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        self.fault.changes(&self.plain, chain, trees)
    }
    fn usage(&self, chain: Chain<'_>) -> Result<Usage> {
        self.fault.usage(&self.plain, chain)
    }
    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>> {
        self.fault.layer_status(&self.plain, chain)
    }
    fn remove(&self, id: &LayerId) -> Result<()> {
        self.fault.remove(&self.plain, id)
    }
    fn list(&self) -> Result<Vec<LayerId>> {
        self.fault.list(&self.plain)
    }
}

/// Cases that would take most of the time, and are there for faults that few of the drivers here have: they are run
/// where they are expected to fail, so no driver here says that they pass.
const SLOW: [&str; 9] = [
    "chain-of-500",
    "crash-at-any-moment",
    "full-disk",
    "full-disk-create",
    "full-disk-recovers",
    "large-file",
    "large-directory",
    "random-edits",
    "random-changes",
];

/// A file system in memory, in the directory for temporary files: the suite runs once for each fault.
struct Memory {
    dir: tempfile::TempDir,
}

impl Memory {
    fn mount() -> Self {
        let dir = tempfile::Builder::new().prefix("mica-broken-").tempdir().unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        Self { dir }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Runs the suite on the driver with this fault, and fails unless exactly these cases do.
pub(crate) fn is_caught_by<F: Fault>(expected: &[&str]) {
    let entry = DriverEntry {
        name: "broken",
        about: "the plain driver with a fault",
        options: &[],
        open: open::<F>,
        helper: None,
    };
    let memory = Memory::mount();
    let options = OptionMap::new();
    let subject = Subject { entry: &entry, options: &options, root: memory.dir.path() };
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let mut failures = BTreeMap::new();
    for case in mica_conformance::cases() {
        if SLOW.contains(&case.name) && !expected.contains(case.name) {
            continue;
        }
        if let Outcome::Failed(text) = case.run(subject) {
            failures.insert(case.name, text);
        }
    }
    let missed: Vec<_> = expected.iter().filter(|name| !failures.contains_key(*name)).collect();
    let others: BTreeMap<_, _> = failures.iter().filter(|(name, _)| !expected.contains(*name)).collect();
    assert!(missed.is_empty() && others.is_empty(), "missed by {missed:?}, and seen by others: {others:#?}");
}

/// Declares a test for each of these drivers, which it is that exactly these cases fail, and the list of all of them.
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
