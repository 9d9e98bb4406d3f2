//! The record of a network: a file, which appears whole and vanishes by one unlink.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use mica_core::network::{Network, NetworkId};
use mica_core::{OptionMap, durable, failpoint};
use serde::{Deserialize, Serialize};

use super::{Networks, is_predefined};
use crate::container::remove_file;
use crate::listing::Listing;
use crate::{Error, Result, root};

/// The longest record that is read, in bytes.
pub(super) const MAX_RECORD: u64 = 1 << 20;

/// A network, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRecord {
    /// The driver that makes it.
    pub driver: String,
    /// When it was made.
    pub created: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options, as they were given.
    pub options: OptionMap,
    /// Addresses that something else has, by name.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// What the driver planned.
    pub network: Network,
}

impl NetworkRecord {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.network.name
    }

    /// Its id.
    pub fn id(&self) -> String {
        self.network.id.to_string()
    }

    /// Whether the engine has it by itself: it cannot be removed.
    pub fn is_predefined(&self) -> bool {
        is_predefined(self.name())
    }
}

impl Networks {
    /// All that are on disk.
    pub(super) fn records(&self) -> Result<Listing<NetworkRecord>> {
        let mut listing = Listing::new();
        for name in names(&self.root.networks())? {
            if name.ends_with(".json") {
                listing.add(read(&self.root.networks().join(name)))?;
            }
        }
        Ok(listing)
    }

    /// The one with this id.
    pub(super) fn read_record(&self, id: &NetworkId) -> Result<Option<NetworkRecord>> {
        read(&self.record_path(id))
    }

    /// The caller has the lock.
    pub(super) fn write(&self, record: &NetworkRecord) -> Result<()> {
        self.sweep()?;
        let path = self.record_path(&record.network.id);
        let failed = || format!("write '{}'", path.display());
        let text = serde_json::to_vec(record).map_err(|e| Error::io(failed)(e.into()))?;
        failpoint::hit("network.planned").map_err(Error::io(failed))?;
        durable::write(&path, &text).map_err(Error::io(failed))?;
        failpoint::hit("network.recorded").map_err(Error::io(failed))
    }

    /// The caller has the lock, and nothing of the network is in the kernel any more.
    pub(super) fn forget(&self, id: &NetworkId) -> Result<()> {
        let path = self.record_path(id);
        let failed = || format!("remove '{}'", path.display());
        failpoint::hit("network.down").map_err(Error::io(failed))?;
        remove_file(&path)?;
        durable::sync_parent(&path).map_err(Error::io(failed))?;
        failpoint::hit("network.removed").map_err(Error::io(failed))
    }

    /// Removes what was written aside by who crashed before it had its place.
    fn sweep(&self) -> Result<()> {
        names(&self.root.networks())?
            .into_iter()
            .filter(|name| name.ends_with(".new"))
            .try_for_each(|name| remove_file(&self.root.networks().join(name)))
    }

    pub(super) fn is_recorded(&self, id: &NetworkId) -> bool {
        self.record_path(id).exists()
    }

    fn record_path(&self, id: &NetworkId) -> PathBuf {
        self.root.networks().join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> Result<Option<NetworkRecord>> {
    let Some(text) = root::read_optional(path, MAX_RECORD)? else { return Ok(None) };
    let record: NetworkRecord = serde_json::from_slice(&text).map_err(|error| damaged(path, &error))?;
    let is_its_own = path.file_stem().is_some_and(|stem| stem == record.id().as_str());
    if is_its_own { Ok(Some(record)) } else { Err(damaged(path, &"it is another network's")) }
}

fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    let hint = "without this file 'mica network check --repair' removes what is left of the network";
    Error::damaged(format!("network record '{}'", path.display()), format!("{reason}; {hint}"))
}

/// Reads a directory that need not be there.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    if fs::exists(dir).map_err(Error::io(|| format!("read '{}'", dir.display())))? {
        root::names(dir)
    } else {
        Ok(Vec::new())
    }
}
