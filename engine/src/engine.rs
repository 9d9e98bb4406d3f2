//! The engine: a data root, the drivers that a program knows, and the choice of one.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mica_archive::Digest;
use mica_core::{DriverEntry, OptionMap, Registry, Store, durable};
use mica_mount::Mounter;

use crate::cli;
use crate::image::Image;
use crate::images;
use crate::root::{self, Root};
use crate::tags::Tags;
use crate::{Error, Reference, Result};

/// How an engine is to be opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data root; made where it is missing.
    pub root: PathBuf,
    /// The drivers that can be chosen.
    pub registry: Registry,
    /// The storage driver for whatever is made; `None` takes the root's own, else the first that opens.
    pub storage_driver: Option<String>,
    /// The options of each storage driver.
    pub storage_opts: BTreeMap<String, OptionMap>,
    /// The OCI runtime that runs containers, by name or path; `None` is the built-in one.
    pub runtime: Option<String>,
    /// The firewall that network drivers write to, where they let it be chosen; `None` takes the first that works.
    pub firewall: Option<String>,
}

impl Config {
    /// A root with these drivers, and nothing else said.
    pub fn new(root: impl Into<PathBuf>, registry: Registry) -> Self {
        Self {
            root: root.into(),
            registry,
            storage_driver: None,
            storage_opts: BTreeMap::new(),
            runtime: None,
            firewall: None,
        }
    }

    /// Adds an option as `--storage-opt` gives it: `DRIVER.NAME=VALUE`. Unknown drivers and names are refused with
    /// the list of those that exist; the driver itself checks the value.
    pub fn storage_opt(&mut self, text: &str) -> Result<()> {
        let refuse = || Error::Invalid(format!("storage option '{text}' must be DRIVER.NAME=VALUE"));
        let (key, value) = text.split_once('=').ok_or_else(refuse)?;
        let (driver, name) = key.split_once('.').ok_or_else(refuse)?;
        let entry = self.registry.storage_driver(driver)?;
        if entry.options.iter().all(|doc| doc.name != name) {
            let known: Vec<String> =
                entry.options.iter().map(|doc| format!("{driver}.{}", doc.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::Invalid(format!(
                "unknown storage option '{key}'; those of this driver are: {known}"
            )));
        }
        self.storage_opts.entry(driver.to_owned()).or_default().insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

/// An open data root. Any number of processes may have it open at once; there is no daemon.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    root: Root,
    stores: Mutex<BTreeMap<String, Store>>,
    warnings: Vec<String>,
}

impl Engine {
    /// Opens a data root, and undoes what commands that were killed have left in it.
    pub fn open(config: Config) -> Result<Self> {
        if let Some(name) = &config.storage_driver {
            config.registry.storage_driver(name)?;
        }
        let root = Root::open(&config.root)?;
        let mut engine = Self { config, root, stores: Mutex::default(), warnings: Vec::new() };
        engine.warnings = engine.recover()?;
        engine.warnings.extend(engine.recover_from_power_cut()?);
        // Without it a full disk is harder to clear, and everything else works.
        let _ = engine.root.keep_reserve();
        Ok(engine)
    }

    /// How it was opened.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its data root.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// What recovery could not finish, and tries again next time.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A storage driver: the named one, or the one that new layers go to. Each is opened once.
    pub fn store(&self, driver: Option<&str>) -> Result<Store> {
        if let Some(name) = driver.or(self.config.storage_driver.as_deref()) {
            let entry = self.config.registry.storage_driver(name)?;
            return self.open_store(entry).map_err(|error| named(name, error));
        }
        if let Some(name) = self.own_driver()? {
            let entry = self.config.registry.storage_driver(&name)?;
            return self.open_store(entry).map_err(Error::doing(|| {
                format!(
                    "this data root holds layers of storage driver '{name}', which does not open; \
                     name another with --storage-driver"
                )
            }));
        }
        let mut reasons = Vec::new();
        for entry in self.config.registry.storage_drivers() {
            match self.open_store(entry) {
                Err(Error::Storage(mica_core::Error::Unavailable { reason })) => {
                    reasons.push(format!("{}: {reason}", entry.name));
                }
                other => return other,
            }
        }
        Err(Error::Invalid(format!("no storage driver is available on this host ({})", reasons.join("; "))))
    }

    /// The image of this name, id, or beginning of an id.
    pub fn image(&self, name: &str) -> Result<Image> {
        let found = images::find(&self.root, name)?;
        images::read(&self.root, found.id())?.ok_or_else(|| Error::no_such("image", name))
    }

    /// The names of an image, in order.
    pub fn tags_of(&self, id: &Digest) -> Result<Vec<Reference>> {
        Ok(Tags::read(&self.root)?.of(id))
    }

    /// Mounts the layers of any driver.
    pub fn mounter(&self) -> Mounter {
        // The link is to this very program, also after its file was replaced.
        Mounter::new(self.root.tmp()).with_helper(["/proc/self/exe", cli::HELPER_VERB])
    }

    /// The driver that a root keeps because it holds layers or containers.
    fn own_driver(&self) -> Result<Option<String>> {
        if root::names(&self.root.layers())?.is_empty() && root::names(&self.root.containers())?.is_empty() {
            return Ok(None);
        }
        let name = root::read_optional(&self.root.driver(), 256)?;
        Ok(name.map(|name| String::from_utf8_lossy(&name).trim().to_owned()))
    }

    /// Remembers the driver that made the root's first layer.
    pub(crate) fn adopt_driver(&self, name: &str) -> Result<()> {
        let _lock = self.root.lock()?;
        if self.own_driver()?.is_some() {
            return Ok(());
        }
        let path = self.root.driver();
        durable::write(&path, format!("{name}\n").as_bytes())
            .map_err(Error::io(|| format!("write '{}'", path.display())))
    }

    fn open_store(&self, entry: &DriverEntry) -> Result<Store> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(entry.name) {
            return Ok(store.clone());
        }
        let directory = self.root.storage(entry.name);
        let is_new = match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(Error::io(|| format!("create '{}'", directory.display()))(e)),
        };
        let options = self.config.storage_opts.get(entry.name).cloned().unwrap_or_default();
        let driver = (entry.open)(&directory, &options).inspect_err(|_| {
            if is_new {
                // A driver that did not open has left nothing in it; if it has, the directory stays.
                let _ = fs::remove_dir(&directory);
            }
        })?;
        let store = Store::new(driver, &self.root.uses(entry.name))?;
        stores.insert(entry.name.to_owned(), store.clone());
        Ok(store)
    }
}

/// Where a driver was named that this host has not got: which one, and where others are found.
pub(crate) fn named(driver: &str, error: Error) -> Error {
    match error {
        Error::Storage(mica_core::Error::Unavailable { reason }) => Error::Invalid(format!(
            "storage driver '{driver}' is not available on this host: {reason}; 'mica drivers' lists those that are"
        )),
        other => other,
    }
}
