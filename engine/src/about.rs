//! What there is to say about an engine and its drivers.

mod network;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use mica_conformance::Outcome;
use mica_core::{Capabilities, DriverEntry, GraphDriver, NetworkEntry, OptionDoc, Support};

use crate::container::Status;
use crate::engine::named;
use crate::{Barrier, Engine, Error, Result, images, root};

/// A driver in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInfo {
    /// Its name.
    pub name: &'static str,
    /// Why it cannot be used here; `None` where it can.
    pub lacking: Option<String>,
    /// What it can do here.
    pub can: String,
    /// What it is good for.
    pub about: &'static str,
}

/// How a conformance run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestSummary {
    /// No promise was found broken.
    pub is_good: bool,
    /// The whole in a line.
    pub text: String,
}

/// A driver of either kind.
#[derive(Clone, Copy)]
enum Found {
    Storage(DriverEntry),
    Network(NetworkEntry),
}

impl Engine {
    /// The driver of this name. Fails with those that exist.
    fn find_driver(&self, name: &str) -> Result<Found> {
        let registry = &self.config().registry;
        if let Ok(entry) = registry.storage_driver(name) {
            return Ok(Found::Storage(*entry));
        }
        registry.network_driver(name).map(|entry| Found::Network(*entry)).map_err(|_| {
            let storage = registry.storage_drivers().iter().map(|entry| entry.name);
            let network = registry.network_drivers().iter().map(|entry| entry.name);
            let known = storage.chain(network).collect::<Vec<_>>().join(", ");
            Error::Invalid(format!("unknown driver '{name}'; those that exist are: {known}"))
        })
    }

    /// All storage drivers, the most preferred first, each tried on the file system of this data root.
    pub fn drivers(&self) -> Result<Vec<DriverInfo>> {
        self.transaction("drivers", Barrier::None, |transaction| {
            let entries = self.config().registry.storage_drivers();
            entries
                .iter()
                .map(|entry| self.driver_info(entry, &transaction.staging().join(entry.name)))
                .collect()
        })
    }

    fn driver_info(&self, entry: &DriverEntry, scratch: &Path) -> Result<DriverInfo> {
        fs::create_dir(scratch).map_err(Error::io(|| format!("create '{}'", scratch.display())))?;
        let options = self.config().storage_opts.get(entry.name).cloned().unwrap_or_default();
        let (lacking, can) = match (entry.open)(scratch, &options) {
            Ok(driver) => (None, abilities(driver.capabilities())),
            Err(mica_core::Error::Unavailable { reason }) => (Some(reason), String::new()),
            Err(error) => (Some(error.to_string()), String::new()),
        };
        Ok(DriverInfo { name: entry.name, lacking, can, about: entry.about })
    }

    /// The options of a driver with their docs, and its capabilities where it opens.
    pub fn describe_driver(&self, name: &str) -> Result<String> {
        match self.find_driver(name)? {
            Found::Storage(entry) => self.describe_storage_driver(&entry),
            Found::Network(entry) => self.describe_network_driver(&entry),
        }
    }

    fn describe_storage_driver(&self, entry: &DriverEntry) -> Result<String> {
        let name = entry.name;
        let mut text = format!("{name}: {}\n", entry.about);
        list_options(&mut text, "Options, set by --storage-opt", &format!("{name}."), entry.options);
        text.push_str("\nOn this host:\n");
        let opened = self.transaction("drivers", Barrier::None, |transaction| {
            let options = self.config().storage_opts.get(name).cloned().unwrap_or_default();
            let driver = (entry.open)(transaction.staging(), &options)?;
            Ok(describe(&*driver))
        });
        match opened {
            Ok(lines) => text.push_str(&lines),
            Err(Error::Storage(error)) => {
                let _ = writeln!(text, "  {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(text)
    }

    /// Checks that a driver keeps its contract on this host, in a directory of the data root, or in another one.
    /// `report` gets a line for each promise, and whether it was kept.
    pub fn test_driver(
        &self,
        name: &str,
        directory: Option<&Path>,
        report: &mut dyn FnMut(&str, bool) -> Result<()>,
    ) -> Result<TestSummary> {
        match self.find_driver(name)? {
            Found::Storage(entry) => self.test_storage_driver(&entry, directory, report),
            Found::Network(entry) => self.test_network_driver(&entry, directory, report),
        }
    }

    fn test_storage_driver(
        &self,
        entry: &DriverEntry,
        directory: Option<&Path>,
        report: &mut dyn FnMut(&str, bool) -> Result<()>,
    ) -> Result<TestSummary> {
        let name = entry.name;
        let options = self.config().storage_opts.get(name).cloned().unwrap_or_default();
        self.transaction("drivers test", Barrier::None, |transaction| {
            let root = directory.unwrap_or(transaction.staging());
            let subject = mica_conformance::Subject { entry, options: &options, root };
            let mut told = Ok(());
            let summary = mica_conformance::run(subject, &mut |case, outcome| {
                if told.is_ok() {
                    told = report(&ended(case.name, case.promise, outcome), *outcome == Outcome::Passed);
                }
            })
            .map_err(|error| named(name, error.into()))?;
            told?;
            Ok(summed_up(name, summary))
        })
    }

    /// What this engine works with, as Docker says it.
    pub fn info(&self) -> Result<String> {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}: {value}");
        };
        for (name, count) in
            ["Containers", " Running", " Paused", " Stopped"].iter().zip(self.count_containers()?)
        {
            line(name, &count.to_string());
        }
        line("Images", &images::ids(self.root())?.len().to_string());
        line("Server Version", env!("CARGO_PKG_VERSION"));
        let store = self.store(None)?;
        line("Storage Driver", store.driver().name());
        for (name, value) in store.driver().status()? {
            line(&format!(" {name}"), &value);
        }
        let used = root::names(&self.root().path().join("storage"))?;
        line("Storage Drivers in Use", &used.join(" "));
        line("Logging Driver", "json-file");
        line(
            "Cgroup Version",
            if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" },
        );
        line("Default Runtime", self.config().runtime.as_deref().unwrap_or("built-in"));
        line("Kernel Version", &kernel("/proc/sys/kernel/osrelease"));
        line("Operating System", &operating_system());
        line("OSType", "linux");
        line("Architecture", std::env::consts::ARCH);
        line("CPUs", &std::thread::available_parallelism().map_or(1, usize::from).to_string());
        line("Total Memory", &total_memory());
        line("Name", &kernel("/proc/sys/kernel/hostname"));
        line("Data Root", &self.root().path().display().to_string());
        Ok(text)
    }

    /// How many containers there are, run, are paused, and do not run.
    fn count_containers(&self) -> Result<[usize; 4]> {
        let containers = self.list_containers()?.found;
        let count = |wanted| containers.iter().filter(|(_, state)| state.status == wanted).count();
        let (all, running, paused) = (containers.len(), count(Status::Running), count(Status::Paused));
        Ok([all, running, paused, all - running - paused])
    }
}

/// Appends options with their docs.
fn list_options(text: &mut String, heading: &str, prefix: &str, options: &[OptionDoc]) {
    // Writing into a string does not fail.
    let _ = writeln!(text, "\n{heading}:");
    if options.is_empty() {
        text.push_str("  none\n");
    }
    for option in options {
        let (value, default) = (option.value(), option.default_value());
        let _ = writeln!(text, "  {prefix}{} ({value}; default: {default})", option.name);
        for line in option.help.lines() {
            let _ = writeln!(text, "      {}", line.trim());
        }
    }
}

/// How a case ended, in a line.
fn ended(case: &str, promise: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => format!("passed   {case}"),
        Outcome::Skipped(reason) => format!("skipped  {case}: {reason}"),
        Outcome::Failed(reason) => format!("FAILED   {case}: {reason} ({promise})"),
    }
}

fn summed_up(name: &str, summary: mica_conformance::Summary) -> TestSummary {
    let mica_conformance::Summary { passed, failed, skipped } = summary;
    let text = format!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
    TestSummary { is_good: summary.is_good(), text }
}

fn describe(driver: &dyn GraphDriver) -> String {
    let can = driver.capabilities();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name}: {value}");
    };
    line("size quota", support(&can.quota_bytes));
    line("inode quota", support(&can.quota_inodes));
    line("id maps", support(&can.id_maps));
    line("most layers", can.max_depth.map_or("no limit".to_owned(), |depth| depth.to_string()));
    line("layers of an image applied at once", yes(can.detached_apply));
    line("cheap copy of a writable layer", yes(can.duplicate));
    line("unchanged files shared between layers", yes(can.shared_data));
    line("directories of lower layers can be renamed", yes(can.posix.rename_lower_dirs));
    line("an open file shows what is written later", yes(can.posix.coherent_open));
    line("hard links of lower layers stay links", yes(can.posix.lower_hard_links));
    for (name, value) in driver.status().unwrap_or_default() {
        line(&name, value);
    }
    text
}

fn yes(can: bool) -> String {
    if can { "yes" } else { "no" }.to_owned()
}

fn support(support: &Support) -> String {
    match support {
        Support::Yes => "yes".to_owned(),
        Support::No { reason } => format!("no, {reason}"),
    }
}

fn abilities(can: &Capabilities) -> String {
    let all = [
        (can.quota_bytes.is_yes() || can.quota_inodes.is_yes(), "quota"),
        (can.id_maps.is_yes(), "idmap"),
        (can.detached_apply, "parallel-apply"),
        (can.duplicate, "duplicate"),
        (can.shared_data, "shared-data"),
    ];
    let names: Vec<&str> = all.iter().filter(|(can, _)| *can).map(|(_, name)| *name).collect();
    names.join(",")
}

fn kernel(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn total_memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{:.2}GiB", kib / f64::from(1 << 20)))
}
