//! Where a case runs: a driver's root of its own, and the directories beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mica_core::{DriverEntry, Error, GraphDriver, OptionMap, Result, Store};

use crate::leftovers;
use crate::outcome::{Doing, Verdict};

/// What is tested: a driver, opened with these options, in new directories below this one.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The driver, as its crate exports it.
    pub entry: &'a DriverEntry,
    /// Its options.
    pub options: &'a OptionMap,
    /// An existing directory on the file system that the driver is to be tested on. Each case makes its own
    /// below it, and removes it.
    pub root: &'a Path,
}

impl Subject<'_> {
    /// Whether the driver opens here, with its own error where it does not.
    pub fn available(&self) -> Result<()> {
        let dir = tempfile::Builder::new().prefix("mica-conformance-").tempdir_in(self.root);
        let dir = dir.map_err(Error::io(|| format!("make a directory in '{}'", self.root.display())))?;
        (self.entry.open)(dir.path(), self.options).map(drop)
    }
}

/// The directories of one case. Dropping it removes the layers, what is mounted, and the directories.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    subject: Subject<'a>,
    dir: tempfile::TempDir,
}

impl<'a> Room<'a> {
    pub(crate) fn new(subject: Subject<'a>) -> Verdict<Self> {
        let dir = tempfile::Builder::new().prefix("mica-conformance-").tempdir_in(subject.root);
        let room = Self { subject, dir: dir.doing(|| "make a directory for the case")? };
        // A case acts as other users too, and they must reach the mounted trees.
        fs::set_permissions(room.dir.path(), fs::Permissions::from_mode(0o755))
            .doing(|| "open the directory")?;
        for dir in [room.driver_root(), room.scratch(), room.plain()] {
            fs::create_dir(&dir).doing(|| format!("make {}", dir.display()))?;
        }
        Ok(room)
    }

    /// What is tested.
    pub(crate) fn subject(&self) -> Subject<'a> {
        self.subject
    }

    /// The name under which the driver is registered.
    pub(crate) fn driver_name(&self) -> &'static str {
        self.subject.entry.name
    }

    /// The root that the driver is opened in, and nobody else touches.
    pub(crate) fn driver_root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Where trees are mounted.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.path().join("scratch")
    }

    /// Where the plain directories are that the trees are compared with.
    pub(crate) fn plain(&self) -> PathBuf {
        self.dir.path().join("plain")
    }

    /// The whole.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Opens the driver, as a process that starts does.
    pub(crate) fn open_driver(&self) -> Result<Box<dyn GraphDriver>> {
        self.open_driver_with(self.subject.options)
    }

    pub(crate) fn open_driver_with(&self, options: &OptionMap) -> Result<Box<dyn GraphDriver>> {
        (self.subject.entry.open)(&self.driver_root(), options)
    }

    pub(crate) fn options(&self) -> &OptionMap {
        self.subject.options
    }

    /// Opens the driver with the locks beside its root.
    pub(crate) fn open_store(&self) -> Result<Store> {
        Store::new(self.open_driver()?, &self.dir.path().join("uses"))
    }

    /// Removes every layer. Whoever stands on others goes first, which takes some rounds for a driver that checks.
    fn empty(&self) {
        let Ok(driver) = self.open_driver() else { return };
        while let Ok(ids) = driver.list() {
            let removed = ids.iter().filter(|id| driver.remove(id).is_ok()).count();
            if removed == 0 {
                return;
            }
            if driver.list().is_ok_and(|left| left.len() >= ids.len()) {
                return;
            }
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        leftovers::unmount_below(self.dir.path());
        self.empty();
        leftovers::unmount_below(self.dir.path());
    }
}
