//! Networks: what containers are connected to, recorded below the data root and made by a driver in the kernel.
//!
//! A network is its record, `networks/ID.json`. The record comes before anything in the kernel and goes after it, so a crash
//! leaves at most a network that does not stand, which is what every network is until a container needs it.
//! An [endpoint](EndpointRecord) is a container's place in a network. Its record lives as long as what it describes may stand
//! in the kernel, and so no longer than the host runs: it is kept below `/run`.
//!
//! Whoever changes which networks and endpoints there are has one lock, so that a subnet is chosen by one command at a
//! time, and nobody connects to a network that is being removed.

mod abandoned;
mod check;
mod containers;
mod create;
mod election;
mod endpoints;
mod firewall;
mod inspect;
mod mend;
mod outside;
mod pools;
pub(crate) mod promises;
mod record;
mod remove;
mod run;
mod unpublished;
mod wish;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{fmt, fs, io};

use mica_archive::Digest;
use mica_core::network::{Network, NetworkId, OwnerId, Raised};
use mica_core::{NetworkDriver, NetworkEntry, OptionMap, Registry};
use mica_net::ipam::Leases;

pub use check::NetworkReport;
pub(crate) use containers::all;
pub use create::NewNetwork;
pub(crate) use election::Elected;
pub use endpoints::EndpointRecord;
pub use outside::Outside;
pub use pools::Wishes;
pub use record::NetworkRecord;
pub use remove::PrunedNetworks;

use crate::listing::Listing;
use crate::lock::Passing;
use crate::{Engine, Error, Result, Root};

/// The network of containers that name none. It is made when it is first asked for.
pub const DEFAULT: &str = "bridge";
/// The network of containers that are in the host's own namespace. No driver is ever asked about it.
pub const HOST: &str = "host";
/// The network of containers that have only `lo`.
pub const NONE: &str = "none";

/// The setting that `--firewall` gives to each driver that has it.
const FIREWALL: &str = "firewall";

/// The networks of a data root, with the drivers that make them.
pub struct Networks {
    root: Root,
    place: OnceLock<Place>,
    registry: Registry,
    firewall: Option<String>,
    opened: Mutex<BTreeMap<&'static str, Arc<dyn NetworkDriver>>>,
}

/// What is theirs in the kernel and below `/run`.
#[derive(Debug)]
struct Place {
    owner: OwnerId,
    run: PathBuf,
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Networks")
            .field("root", &self.root)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Its networks. Nothing is made, and nothing asked of a driver, until one is needed.
    pub fn networks(&self) -> Networks {
        let config = self.config();
        Networks::open(self.root().clone(), config.registry.clone(), config.firewall.clone())
    }
}

impl Networks {
    /// The networks of this root, without the rest of an engine.
    pub fn open(root: Root, registry: Registry, firewall: Option<String>) -> Self {
        Self { root, place: OnceLock::new(), registry, firewall, opened: Mutex::default() }
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// The name that all bears which this data root has in the kernel.
    pub fn owner(&self) -> Result<&OwnerId> {
        Ok(&self.place()?.owner)
    }

    /// Makes the directories of a root that has had no networks yet.
    fn place(&self) -> Result<&Place> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        let owner = run::owner(&self.root)?;
        let run = run::directory(&self.root, &owner)?;
        let records = self.root.networks();
        crate::root::make_directory(&records)
            .map_err(Error::io(|| format!("create '{}'", records.display())))?;
        Ok(self.place.get_or_init(|| Place { owner, run }))
    }

    fn run(&self) -> Result<&Path> {
        Ok(&self.place()?.run)
    }

    /// A driver, opened with the settings that the command line gives. Each is opened once.
    pub fn driver(&self, name: &str) -> Result<Arc<dyn NetworkDriver>> {
        let entry = self.registry.network_driver(name)?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = opened.get(entry.name) {
            return Ok(driver.clone());
        }
        let dir = self.run_directory("drivers")?.join(entry.name);
        crate::root::make_directory(&dir).map_err(Error::io(|| format!("create '{}'", dir.display())))?;
        let driver = (entry.open)(*self.owner()?, &dir, &settings(entry, self.firewall()?.as_deref()));
        let driver: Arc<dyn NetworkDriver> = driver.map_err(|error| named(name, error))?.into();
        opened.insert(entry.name, driver.clone());
        Ok(driver)
    }

    /// The addresses that endpoints have.
    pub fn leases(&self) -> Result<Leases> {
        Ok(Leases::open(&self.run_directory("leases")?)?)
    }

    /// The network of this name, id, or beginning of an id that no other has. The default network is made now, if it was
    /// not before.
    pub fn get(&self, name: &str) -> Result<NetworkRecord> {
        let found = self.find(name)?;
        let is_made = found.name() != DEFAULT || self.is_recorded(&found.network.id);
        if is_made { Ok(found) } else { self.make_default() }
    }

    /// All networks by name, also the default one where it was not made yet.
    pub fn all(&self) -> Result<Listing<NetworkRecord>> {
        let mut listing = self.records()?;
        for name in [DEFAULT, HOST, NONE] {
            if listing.found.iter().all(|known| known.name() != name) {
                listing.found.push(self.unmade(name)?);
            }
        }
        listing.found.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(listing)
    }

    /// Makes what the network's endpoints share, or mends it, as before each `attach`. Answers what that changed.
    pub fn up(&self, record: &NetworkRecord) -> Result<Raised> {
        let driver = self.driver(&record.driver)?;
        self.keep_firewall()?;
        self.note_namespace()?;
        Ok(driver.up(&record.network)?)
    }

    /// Without making the default one.
    fn find(&self, name: &str) -> Result<NetworkRecord> {
        let known = self.all()?.found;
        if let Some(found) = known.iter().find(|known| known.name() == name) {
            return Ok(found.clone());
        }
        let mut matching = known.into_iter().filter(|known| known.id().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(found), None) if !name.is_empty() => Ok(found),
            (Some(_), Some(_)) if !name.is_empty() => {
                Err(Error::Invalid(format!("'{name}' begins more than one network id; give more digits")))
            }
            _ => Err(Error::no_such("network", name.escape_debug().to_string())),
        }
    }

    /// Holds off whoever else would change which networks and endpoints there are.
    fn alone(&self) -> Result<Passing> {
        self.root.long_lock("networks")
    }

    fn run_directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.run()?.join(name);
        crate::root::make_directory(&dir).map_err(Error::io(|| format!("create '{}'", dir.display())))?;
        Ok(dir)
    }

    /// A network that the engine has without a record.
    fn unmade(&self, name: &str) -> Result<NetworkRecord> {
        let driver = match name {
            DEFAULT => self.registry.network_drivers().first().map_or(DEFAULT, |entry| entry.name),
            name => name,
        };
        Ok(NetworkRecord {
            driver: driver.to_owned(),
            created: run::made(&self.root),
            labels: BTreeMap::new(),
            options: OptionMap::new(),
            auxiliary: BTreeMap::new(),
            network: Network { name: name.to_owned(), ..Network::unrecorded(self.id_of(name)?) },
        })
    }

    /// The id of a network that has the same one always.
    fn id_of(&self, name: &str) -> Result<NetworkId> {
        let digest = Digest::of(format!("{}:{name}", self.owner()?).as_bytes());
        Ok(NetworkId::from_bytes(std::array::from_fn(|at| digest.bytes()[at])))
    }
}

/// Which network namespace the calling thread is in: the device and the inode of its file.
fn here() -> io::Result<(u64, u64)> {
    let file = fs::metadata("/proc/thread-self/ns/net")?;
    Ok((file.dev(), file.ino()))
}

/// Whether the engine has a network of this name by itself.
pub(crate) fn is_predefined(name: &str) -> bool {
    [DEFAULT, HOST, NONE].contains(&name)
}

/// What is set of a driver's own settings.
pub(crate) fn settings(entry: &NetworkEntry, firewall: Option<&str>) -> OptionMap {
    let has_firewall = entry.settings.iter().any(|setting| setting.name == FIREWALL);
    let chosen = firewall.filter(|_| has_firewall);
    chosen.map(|word| (FIREWALL.to_owned(), word.to_owned())).into_iter().collect()
}

fn named(name: &str, error: mica_core::Error) -> Error {
    match error {
        mica_core::Error::Unavailable { .. } => Error::doing(|| {
            format!("open network driver '{name}' ('mica drivers' lists those that work here)")
        })(error),
        other => other.into(),
    }
}
