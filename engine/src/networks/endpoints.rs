//! The records of endpoints: a file for each container in each network that it is connected to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use mica_core::failpoint;
use mica_core::network::{Attachment, Endpoint, EndpointId, NetworkId, Port};
use mica_net::ipam::{Lease, Wanted};
use serde::{Deserialize, Serialize};

use super::record::{MAX_RECORD, names};
use super::{NetworkRecord, Networks, Outside};
use crate::container::remove_file;
use crate::{Error, Result, root};

/// A container's place in a network, as it is recorded.
///
/// It is written before anything of it is in the kernel, again with the attachment, and goes when `detach` has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecord {
    /// The network.
    pub network: NetworkId,
    /// The id of the container.
    pub container: String,
    /// The container's name when it was connected.
    pub name: String,
    /// What else it is called there.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What the container calls itself.
    #[serde(default)]
    pub hostname: String,
    /// What the driver is told.
    pub endpoint: Endpoint,
    /// What was asked for at `[::1]` and leads here: no driver publishes there.
    #[serde(default)]
    pub loopback6: Vec<Port>,
    /// What the driver answered, once it has.
    pub attachment: Option<Attachment>,
    /// Where it is, if it is no container of this engine.
    #[serde(default)]
    pub outside: Option<Outside>,
}

impl Networks {
    /// The endpoints of a network.
    pub fn endpoints(&self, network: &NetworkId) -> Result<Vec<EndpointRecord>> {
        let dir = self.endpoint_dir(network)?;
        let mut endpoints = Vec::new();
        for name in names(&dir)?.into_iter().filter(|name| name.ends_with(".json")) {
            let path = dir.join(name);
            // One that was disconnected meanwhile is none.
            let Some(text) = root::read_optional(&path, MAX_RECORD)? else { continue };
            let endpoint = serde_json::from_slice(&text);
            endpoints.push(
                endpoint.map_err(|e| Error::damaged(format!("endpoint record '{}'", path.display()), e))?,
            );
        }
        Ok(endpoints)
    }

    /// Records an endpoint for the first time: from now on its network stays. Fails where the network was removed.
    pub fn record_endpoint(&self, record: &EndpointRecord) -> Result<()> {
        let _alone = self.alone()?;
        if !self.is_recorded(&record.network) {
            return Err(Error::no_such("network", record.network.to_string()));
        }
        self.write_endpoint(record)
    }

    /// Replaces the record of an endpoint, as when its attachment is known. Its container is the caller's alone.
    pub fn write_endpoint(&self, record: &EndpointRecord) -> Result<()> {
        let path = self.endpoint_path(&record.network, &record.container)?;
        let failed = || format!("write '{}'", path.display());
        let dir = self.endpoint_dir(&record.network)?;
        root::make_directory(&dir).map_err(Error::io(failed))?;
        let text = serde_json::to_vec(record).map_err(|e| Error::io(failed)(e.into()))?;
        let aside = path.with_extension("new");
        // Not synced: a power cut is the end of what it describes.
        let written = fs::write(&aside, text).and_then(|()| failpoint::hit("network.aside"));
        written.and_then(|()| fs::rename(&aside, &path)).map_err(|error| {
            // It is no record, and the next one is written over it.
            let _ = fs::remove_file(&aside);
            Error::io(failed)(error)
        })
    }

    /// Ends the record of an endpoint that was detached. One that is gone is no error.
    pub fn forget_endpoint(&self, network: &NetworkId, container: &str) -> Result<()> {
        remove_file(&self.endpoint_path(network, container)?)?;
        self.forget_unwritten(network, container)
    }

    /// Removes what is left of a record that somebody was killed while writing.
    pub(super) fn forget_unwritten(&self, network: &NetworkId, container: &str) -> Result<()> {
        remove_file(&self.endpoint_path(network, container)?.with_extension("new"))
    }

    /// Leases the addresses of an endpoint whose record is about to be written: what is wished for, else the next in turn
    /// that is not `promised` to another. The lease is dropped once the record is there; without a record it is void.
    pub fn lease(
        &self,
        record: &NetworkRecord,
        endpoint: EndpointId,
        wishes: &[IpAddr],
        promised: &BTreeSet<IpAddr>,
    ) -> Result<Lease> {
        let network = &record.network;
        let wanted = Wanted { network, endpoint, wishes, promised };
        let holders = RefCell::default();
        Ok(self.leases()?.take(&wanted, &|id| self.holder(&network.id, id, &holders))?)
    }

    /// Gives back what endpoints of the network hold that have no record; the number of those endpoints.
    pub(super) fn sweep_leases(&self, network: &NetworkId) -> Result<usize> {
        let holders = RefCell::default();
        Ok(self.leases()?.sweep(network, &|id| self.holder(network, id, &holders))?.len())
    }

    /// Whose endpoint it is, for people; `None` for one without a record. Of one that was not `seen` before it is looked for anew: its
    /// record may have come since.
    fn holder(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        seen: &RefCell<BTreeMap<EndpointId, String>>,
    ) -> mica_core::Result<Option<String>> {
        let known = |holders: &BTreeMap<EndpointId, String>| {
            holders.get(endpoint).map(|name| format!("container '{name}'"))
        };
        if let Some(holder) = known(&seen.borrow()) {
            return Ok(Some(holder));
        }
        let endpoints = self.endpoints(network);
        let endpoints =
            endpoints.map_err(|error| mica_core::Error::driver("look whose an address is", error))?;
        *seen.borrow_mut() = endpoints.into_iter().map(|record| (record.endpoint.id, record.name)).collect();
        Ok(known(&seen.borrow()))
    }

    /// The names of the containers that are connected to it.
    pub fn users(&self, record: &NetworkRecord) -> Result<Vec<String>> {
        Ok(self.endpoints(&record.network.id)?.into_iter().map(|endpoint| endpoint.name).collect())
    }

    /// Where the records of a network's endpoints are. Its time changes whenever one of them does.
    pub(crate) fn endpoint_dir(&self, network: &NetworkId) -> Result<PathBuf> {
        Ok(self.run()?.join("endpoints").join(network.to_string()))
    }

    fn endpoint_path(&self, network: &NetworkId, container: &str) -> Result<PathBuf> {
        Ok(self.endpoint_dir(network)?.join(format!("{container}.json")))
    }
}
