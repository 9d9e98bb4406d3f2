//! Leases on disk: a file for each network, in a directory that is named after the boot.
//!
//! What another boot wrote is never read: its containers are gone. Within a boot a file is replaced by a rename, so it is
//! whole after a crash of the process; it is never synced, since a power cut is the end of the boot. One `flock` of the
//! directory serializes who changes any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mica_core::network::{EndpointId, Network, NetworkId};
use mica_core::{Error, Result, failpoint};

use super::intent::Intent;
use super::table::{Denied, Table};
use super::{Owner, listed};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The leases of all networks of an engine.
#[derive(Debug)]
pub struct Leases {
    dir: PathBuf,
}

/// What an endpoint needs addresses for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where: one address of each of its pools.
    pub network: &'a Network,
    /// For whom.
    pub endpoint: EndpointId,
    /// The addresses that it must have, at most one of each family; any in the subnet, in the range or not.
    pub wishes: &'a [IpAddr],
    /// What records promise to others, such as the fixed addresses of stopped containers. It is leased to none but who
    /// wishes for it.
    pub promised: &'a BTreeSet<IpAddr>,
}

/// Addresses that were leased.
///
/// While this is held the lease stands without a record of its endpoint; it is dropped when the record is written. Who
/// writes none calls [`Leases::give_back`].
#[derive(Debug)]
#[must_use = "a lease without a record stands only as long as this"]
pub struct Lease {
    /// One of each pool, in their order.
    pub addresses: Vec<IpAddr>,
    _intent: Intent,
}

impl Leases {
    /// Opens the leases in this directory, which exists and is theirs alone. What other boots left in it is removed.
    pub fn open(dir: &Path) -> Result<Self> {
        let boot = fs::read_to_string(BOOT_ID).map_err(Error::io(|| format!("read '{BOOT_ID}'")))?;
        Self::of_boot(dir, boot.trim())
    }

    fn of_boot(dir: &Path, boot: &str) -> Result<Self> {
        let opened = || -> io::Result<PathBuf> {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_name() != boot {
                    // Another command may be at it, too.
                    ignore_missing(fs::remove_dir_all(entry.path()))?;
                }
            }
            let dir = dir.join(boot);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(dir),
            }
        };
        let dir = opened().map_err(Error::io(|| format!("open the leases in '{}'", dir.display())))?;
        Ok(Self { dir })
    }

    /// Leases addresses to an endpoint that has none. A lease in the way whose holder is known to nobody is given back
    /// first.
    ///
    /// Fails with [`Error::InUse`] for a wish that another one has, naming it, [`Error::Full`] for a pool without a free
    /// address, [`Error::Options`] for a wish that no endpoint can have there, [`Error::AlreadyExists`] for an endpoint
    /// that holds a lease.
    pub fn take(&self, wanted: &Wanted<'_>, owner: &Owner<'_>) -> Result<Lease> {
        let Wanted { network, endpoint, wishes, promised } = *wanted;
        let _lock = self.lock()?;
        let mut table = self.read(&network.id)?;
        let intent = Intent::declare(&self.intents(), &endpoint)?;
        let mut leased = table.lease(network, endpoint, wishes, promised);
        if matches!(leased, Err(Denied::Held { .. })) && !self.drop_unknown(&mut table, owner)?.is_empty() {
            self.write(&network.id, &table)?;
            leased = table.lease(network, endpoint, wishes, promised);
        }
        let addresses = match leased {
            Ok(addresses) => addresses,
            Err(Denied::Never(error)) => return Err(error),
            Err(Denied::Held { by, wish, of }) => return Err(self.held_by(network, &by, wish, of, owner)),
        };
        self.write(&network.id, &table)?;
        Ok(Lease { addresses, _intent: intent })
    }

    /// Ends the lease of an endpoint whose `detach` succeeded. One that has none is no error.
    pub fn give_back(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<()> {
        let _lock = self.lock()?;
        let mut table = self.read(network)?;
        if table.give_back(endpoint) { self.write(network, &table) } else { Ok(()) }
    }

    /// Ends the leases whose holders are known to nobody, and answers whose those were.
    pub fn sweep(&self, network: &NetworkId, owner: &Owner<'_>) -> Result<BTreeSet<EndpointId>> {
        let _lock = self.lock()?;
        let mut table = self.read(network)?;
        let unknown = self.drop_unknown(&mut table, owner)?;
        if !unknown.is_empty() {
            self.write(network, &table)?;
        }
        Ok(unknown)
    }

    /// Who has which address.
    pub fn held(&self, network: &NetworkId) -> Result<BTreeMap<IpAddr, EndpointId>> {
        Ok(self.read(network)?.held)
    }

    /// Forgets a network that was removed, and its leases. One that was never known is no error.
    pub fn forget(&self, network: &NetworkId) -> Result<()> {
        let _lock = self.lock()?;
        let path = self.table(network);
        ignore_missing(fs::remove_file(&path))
            .map_err(Error::io(|| format!("remove the leases '{}'", path.display())))
    }

    /// The intent is asked for first, since it goes after the record has come.
    fn drop_unknown(&self, table: &mut Table, owner: &Owner<'_>) -> Result<BTreeSet<EndpointId>> {
        let holders: BTreeSet<EndpointId> = table.held.values().copied().collect();
        let mut unknown = BTreeSet::new();
        for endpoint in holders {
            if !Intent::is_declared(&self.intents(), &endpoint)? && owner(&endpoint)?.is_none() {
                unknown.insert(endpoint);
            }
        }
        table.held.retain(|_, held| !unknown.contains(held));
        Ok(unknown)
    }

    fn held_by(
        &self,
        network: &Network,
        by: &[EndpointId],
        wish: Option<IpAddr>,
        of: u128,
        owner: &Owner<'_>,
    ) -> Error {
        let starting = |endpoint| format!("endpoint '{endpoint}', which is being started");
        let name = |endpoint| Ok(owner(endpoint)?.unwrap_or_else(|| starting(endpoint)));
        let by = match by.iter().map(name).collect::<Result<Vec<_>>>() {
            Ok(names) => listed(&names),
            Err(error) => return error,
        };
        let network = &network.name;
        match wish {
            Some(wish) => Error::InUse { what: format!("address {wish} of network '{network}'"), by },
            None => Error::Full {
                what: format!("network '{network}'"),
                limit: format!(
                    "{of} addresses, less what is reserved and promised, and the others are held by {by}"
                ),
            },
        }
    }

    fn read(&self, network: &NetworkId) -> Result<Table> {
        let path = self.table(network);
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Table::default()),
            content => content.map_err(Error::io(|| format!("read the leases '{}'", path.display())))?,
        };
        serde_json::from_slice(&content).map_err(|error| Error::Corrupt {
            what: format!("the file of leases '{}'", path.display()),
            reason: format!("{error}; stop the network's containers and remove it"),
        })
    }

    fn write(&self, network: &NetworkId, table: &Table) -> Result<()> {
        let path = self.table(network);
        let doing = || format!("write the leases '{}'", path.display());
        let content = serde_json::to_vec(table).map_err(|error| Error::driver(doing(), error))?;
        let aside = path.with_extension("new");
        let written = || -> io::Result<()> {
            fs::write(&aside, content)?;
            failpoint::hit("ipam.lease.aside")?;
            fs::rename(&aside, &path)?;
            failpoint::hit("ipam.lease.written")
        };
        written().map_err(Error::io(doing))
    }

    fn lock(&self) -> Result<File> {
        let locked = || File::open(&self.dir).and_then(|dir| dir.lock().map(|()| dir));
        locked().map_err(Error::io(|| format!("lock the leases in '{}'", self.dir.display())))
    }

    fn table(&self, network: &NetworkId) -> PathBuf {
        self.dir.join(format!("{network}.json"))
    }

    fn intents(&self) -> PathBuf {
        self.dir.join("intents")
    }
}

fn ignore_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
