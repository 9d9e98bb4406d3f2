//! The drivers that a program knows: a plain value, built in one function.
//!
//! Nothing registers itself. A program that adds a driver builds a registry, adds an entry, and passes it on.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use crate::network::OwnerId;
use crate::{Error, GraphDriver, NetworkDriver, OptionDoc, OptionMap, Result};

/// What the crate of a storage driver exports.
#[derive(Clone, Copy, Debug)]
pub struct DriverEntry {
    /// The name by which it is chosen: lower-case letters, digits and `-`. It names the driver's directory and stands
    /// in records.
    pub name: &'static str,
    /// What it is good for, in a sentence of at most 60 characters.
    pub about: &'static str,
    /// Its options, in the order in which they are shown.
    pub options: &'static [OptionDoc],
    /// Opens it; [`graphdriver`](crate::graphdriver#opening) says what it is given, what it does and how it fails.
    pub open: fn(root: &Path, options: &OptionMap) -> Result<Box<dyn GraphDriver>>,
    /// The entry point of the process that serves a [`Helper`](crate::mount::Helper) mount, for a driver that has
    /// one. The connection to `/dev/fuse` is descriptor 3.
    pub helper: Option<fn(args: &[OsString]) -> ExitCode>,
}

/// What the crate of a network driver exports.
#[derive(Clone, Copy, Debug)]
pub struct NetworkEntry {
    /// The name by which it is chosen: lower-case letters, digits and `-`. It stands in records. `host` and
    /// `container` are the engine's own words.
    pub name: &'static str,
    /// What it is good for, in a sentence of at most 60 characters.
    pub about: &'static str,
    /// The options of each of its networks, in the order in which they are shown.
    pub options: &'static [OptionDoc],
    /// The settings that [`open`](Self::open) takes, for all its networks together, such as the firewall.
    pub settings: &'static [OptionDoc],
    /// Opens it, for the engine of this id, in the network namespace that the calling thread is in.
    ///
    /// The directory exists, belongs to this driver alone, and may be in use by another process with the same driver.
    /// It is emptied when the host starts, as the kernel's state is: it is for locks and for what the driver changed
    /// of the host's own settings, and holds no record of a network. Opening touches nothing in the kernel, and fails
    /// with [`Error::Unavailable`] where the host lacks what the driver needs, with [`Error::Options`] for settings
    /// that it does not take.
    pub open: fn(owner: OwnerId, dir: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>>,
}

/// The drivers in order of preference. Of storage drivers, where none is named, the first that opens is taken; of
/// network drivers the first.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    storage: Vec<DriverEntry>,
    network: Vec<NetworkEntry>,
}

impl Registry {
    /// A registry without drivers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a storage driver, less preferred than those before it. An entry of the same name is replaced in its
    /// place.
    pub fn storage(mut self, entry: DriverEntry) -> Self {
        put(&mut self.storage, entry, |entry| entry.name);
        self
    }

    /// Adds a network driver, less preferred than those before it. An entry of the same name is replaced in its
    /// place.
    pub fn network(mut self, entry: NetworkEntry) -> Self {
        put(&mut self.network, entry, |entry| entry.name);
        self
    }

    /// The storage drivers, the most preferred first.
    pub fn storage_drivers(&self) -> &[DriverEntry] {
        &self.storage
    }

    /// The network drivers, the most preferred first.
    pub fn network_drivers(&self) -> &[NetworkEntry] {
        &self.network
    }

    /// The storage driver of this name. Fails with [`Error::Options`], listing those that exist.
    pub fn storage_driver(&self, name: &str) -> Result<&DriverEntry> {
        find(&self.storage, "storage", name, |entry| entry.name)
    }

    /// The network driver of this name. Fails with [`Error::Options`], listing those that exist.
    pub fn network_driver(&self, name: &str) -> Result<&NetworkEntry> {
        find(&self.network, "network", name, |entry| entry.name)
    }
}

type Name<T> = fn(&T) -> &'static str;

fn put<T>(entries: &mut Vec<T>, entry: T, name: Name<T>) {
    match entries.iter_mut().find(|known| name(known) == name(&entry)) {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
}

fn find<'a, T>(entries: &'a [T], kind: &str, wanted: &str, name: Name<T>) -> Result<&'a T> {
    entries.iter().find(|entry| name(entry) == wanted).ok_or_else(|| {
        let known = entries.iter().map(name).collect::<Vec<_>>().join(", ");
        Error::Options(format!("unknown {kind} driver '{wanted}'; those that exist are: {known}"))
    })
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
    fn network_drivers_are_a_list_of_their_own() {
        let bridge = NetworkEntry {
            name: "a",
            about: "",
            options: &[],
            settings: &[],
            open: |_, _, _| Err(Error::Unavailable { reason: "a test".to_owned() }),
        };
        let registry = Registry::new().network(bridge).storage(entry("b", ""));
        assert_eq!(registry.network_driver("a").unwrap().name, "a");
        let text = registry.network_driver("b").unwrap_err().to_string();
        assert_eq!(text, "unknown network driver 'b'; those that exist are: a");
    }

    #[test]
    fn a_second_entry_of_a_name_takes_the_first_ones_place() {
        let registry =
            Registry::new().storage(entry("a", "old")).storage(entry("b", "")).storage(entry("a", "new"));
        let found: Vec<_> = registry.storage_drivers().iter().map(|e| (e.name, e.about)).collect();
        assert_eq!(found, [("a", "new"), ("b", "")]);
    }
}
