//! The drivers that a program knows: a plain value, built in one function.
//!
//! Nothing registers itself. A program that adds a driver builds a registry, adds an entry, and passes it on.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::{Error, GraphDriver, OptionDoc, OptionMap, Result};

/// What the crate of a storage driver exports.
#[derive(Clone, Copy, Debug)]
pub struct DriverEntry {
    /// The name by which it is chosen: lower-case letters, digits and `-`. It names the driver's directory and stands in records.
    pub name: &'static str,
    /// What it is good for, in a sentence of at most 60 characters.
    pub about: &'static str,
    /// Its options, in the order in which they are shown.
    pub options: &'static [OptionDoc],
    /// Opens it.
    ///
    /// The directory exists, belongs to this driver alone, and may be in use by another process with the same driver.
    /// Opening finishes what a crash left (never anything that another live process is doing), and fails with
    /// [`Error::Unavailable`] where the host lacks what the driver needs, with [`Error::Options`] for options that it
    /// does not take, with [`Error::Corrupt`] for a directory that it cannot read. A failed open leaves the directory
    /// as it was.
    pub open: fn(root: &Path, options: &OptionMap) -> Result<Box<dyn GraphDriver>>,
    /// The entry point of the process that serves a [`Helper`](crate::mount::Helper) mount, for a driver that has
    /// one. The connection to `/dev/fuse` is descriptor 3.
    pub helper: Option<fn(args: &[OsString]) -> ExitCode>,
}

/// The drivers in order of preference: where none is named, the first that opens is taken.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    storage: Vec<DriverEntry>,
}

impl Registry {
    /// A registry without drivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a storage driver, less preferred than those before it. An entry of the same name is replaced in its place.
    pub fn storage(mut self, entry: DriverEntry) -> Self {
        match self.storage.iter_mut().find(|known| known.name == entry.name) {
            Some(known) => *known = entry,
            None => self.storage.push(entry),
        }
        self
    }

    /// The storage drivers, the most preferred first.
    pub fn storage_drivers(&self) -> &[DriverEntry] {
        &self.storage
    }

    /// The storage driver of this name. Fails with [`Error::Options`], listing those that exist.
    pub fn storage_driver(&self, name: &str) -> Result<&DriverEntry> {
        self.storage.iter().find(|entry| entry.name == name).ok_or_else(|| {
            let known = self.storage.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
            Error::Options(format!("unknown storage driver '{name}'; those that exist are: {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &'static str, about: &'static str) -> DriverEntry {
        DriverEntry {
            name,
            about,
            options: &[],
            open: |_, _| Err(Error::Unavailable { reason: "a test".to_owned() }),
            helper: None,
        }
    }

    #[test]
    fn an_unknown_driver_is_refused_with_those_that_exist() {
        let registry = Registry::new().storage(entry("a", "")).storage(entry("b", ""));
        let text = registry.storage_driver("c").unwrap_err().to_string();
        assert_eq!(text, "unknown storage driver 'c'; those that exist are: a, b");
    }

    #[test]
    fn a_second_entry_of_a_name_takes_the_first_ones_place() {
        let registry =
            Registry::new().storage(entry("a", "old")).storage(entry("b", "")).storage(entry("a", "new"));
        let found: Vec<_> = registry.storage_drivers().iter().map(|e| (e.name, e.about)).collect();
        assert_eq!(found, [("a", "new"), ("b", "")]);
    }
}
