//! What there is to say about network drivers.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use mica_conformance::{Outcome, network};
use mica_core::network::{Addressing, NetCapabilities, OwnerId};
use mica_core::{NetworkDriver, NetworkEntry, OptionMap};

use super::{DriverInfo, TestSummary, ended, list_options, summed_up, support, yes};
use crate::{Barrier, Engine, Error, Result, networks};

/// The engine that a driver is opened for to be asked what it can do. It makes nothing, so nothing ever bears this mark.
const NOBODY: OwnerId = OwnerId::from_bytes([0; 8]);

impl Engine {
    /// All network drivers, the most preferred first, each tried on this host.
    pub fn network_drivers(&self) -> Result<Vec<DriverInfo>> {
        self.transaction("drivers", Barrier::None, |transaction| {
            let entries = self.config().registry.network_drivers().iter();
            entries
                .map(|entry| self.network_driver_info(entry, &transaction.staging().join(entry.name)))
                .collect()
        })
    }

    fn network_driver_info(&self, entry: &NetworkEntry, scratch: &Path) -> Result<DriverInfo> {
        fs::create_dir(scratch).map_err(Error::io(|| format!("create '{}'", scratch.display())))?;
        let (lacking, can) = match (entry.open)(NOBODY, scratch, &self.network_settings(entry)) {
            Ok(driver) => (None, abilities(driver.capabilities())),
            Err(mica_core::Error::Unavailable { reason }) => (Some(reason), String::new()),
            Err(error) => (Some(error.to_string()), String::new()),
        };
        Ok(DriverInfo { name: entry.name, lacking, can, about: entry.about })
    }

    fn network_settings(&self, entry: &NetworkEntry) -> OptionMap {
        networks::settings(entry, self.config().firewall.as_deref())
    }

    pub(super) fn describe_network_driver(&self, entry: &NetworkEntry) -> Result<String> {
        let mut text = format!("{}: {}\n", entry.name, entry.about);
        list_options(&mut text, "Options of a network", "", entry.options);
        list_options(&mut text, "Settings of the driver", "", entry.settings);
        text.push_str("\nOn this host:\n");
        let opened = self.transaction("drivers", Barrier::None, |transaction| {
            let driver = (entry.open)(NOBODY, transaction.staging(), &self.network_settings(entry))?;
            Ok(describe(&*driver))
        });
        match opened {
            Ok(lines) => text.push_str(&lines),
            Err(Error::Storage(error)) => {
                // Writing into a string does not fail.
                let _ = writeln!(text, "  {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(text)
    }

    pub(super) fn test_network_driver(
        &self,
        entry: &NetworkEntry,
        directory: Option<&Path>,
        report: &mut dyn FnMut(&str, bool) -> Result<()>,
    ) -> Result<TestSummary> {
        let (settings, options) = (self.network_settings(entry), OptionMap::new());
        self.transaction("drivers test", Barrier::None, |transaction| {
            let root = directory.unwrap_or(transaction.staging());
            let subject = network::Subject { entry, settings: &settings, options: &options, root };
            let mut told = Ok(());
            let summary = network::run(subject, &mut |case, outcome| {
                if told.is_ok() {
                    told = report(&ended(case.name, case.promise, outcome), *outcome == Outcome::Passed);
                }
            })
            .map_err(|error| named(entry.name, error))?;
            told?;
            Ok(summed_up(entry.name, summary))
        })
    }
}

fn named(name: &str, error: mica_core::Error) -> Error {
    match error {
        mica_core::Error::Unavailable { reason } => {
            Error::Invalid(format!("network driver '{name}' is not available on this host: {reason}"))
        }
        other => other.into(),
    }
}

fn describe(driver: &dyn NetworkDriver) -> String {
    let can = driver.capabilities();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {name}: {value}");
    };
    line("addresses", addressing(can.addressing).to_owned());
    line("IPv6", support(&can.ipv6));
    line("published ports", support(&can.ports));
    line("internal networks", support(&can.internal));
    line("keeps strangers and spoofed packets out", yes(can.shielded));
    line("hardware addresses by choice", yes(can.mac));
    line("live change of ports and gateway", yes(can.live));
    line(
        "most endpoints of a network",
        can.max_endpoints.map_or("no limit".to_owned(), |most| most.to_string()),
    );
    for (name, value) in driver.status().unwrap_or_default() {
        line(&name, value);
    }
    text
}

fn addressing(by: Addressing) -> &'static str {
    match by {
        Addressing::None => "none",
        Addressing::Engine => "leased by the engine",
        Addressing::Driver { wishes: true } => "leased by the driver, by wish",
        Addressing::Driver { wishes: false } => "leased by the driver",
    }
}

fn abilities(can: &NetCapabilities) -> String {
    let all = [
        (can.ipv6.is_yes(), "ipv6"),
        (can.ports.is_yes(), "ports"),
        (can.internal.is_yes(), "internal"),
        (can.shielded, "shield"),
        (can.mac, "mac"),
        (can.live, "live"),
    ];
    let names: Vec<&str> = all.iter().filter(|(can, _)| *can).map(|(_, name)| *name).collect();
    names.join(",")
}
