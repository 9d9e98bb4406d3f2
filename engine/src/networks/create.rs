//! Making a network: its subnets are chosen, its driver plans it, and it is recorded. Nothing is in the kernel then.

use std::collections::BTreeMap;

use mica_core::OptionMap;
use mica_core::network::{InterfaceName, Network, NetworkId};
use mica_net::ipam::{Taken, taken_by_host};

use super::pools::{Ground, Wishes};
use super::record::NetworkRecord;
use super::{DEFAULT, HOST, Networks, is_predefined};
use crate::container::{is_valid_name, now};
use crate::intent::random_id;
use crate::{Error, Result};

/// The bridge of the default network, unless something else on the host is called so.
const DEFAULT_INTERFACE: &str = "mica0";

/// A network that is wanted.
#[derive(Clone, Debug, Default)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// Its driver; `None` takes the first.
    pub driver: Option<String>,
    /// Its addresses.
    pub addresses: Wishes,
    /// Its endpoints reach each other and the host, and nothing else.
    pub internal: bool,
    /// The driver's own options.
    pub options: OptionMap,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Networks {
    /// Makes a network.
    pub fn create(&self, new: NewNetwork) -> Result<NetworkRecord> {
        check_name(&new.name)?;
        let bytes = random_id()?;
        let id: NetworkId = bytes.parse()?;
        let _alone = self.alone()?;
        let others = self.records()?.whole()?;
        if let Some(other) = others.iter().find(|other| other.name() == new.name) {
            return Err(Error::Conflict(format!(
                "network with name {} already exists, with id {}; remove that or take another name",
                new.name,
                other.id()
            )));
        }
        let record = self.plan(new, id, None, &others)?;
        self.write(&record)?;
        Ok(record)
    }

    /// The network of this name, made as `new` says where there is none. Its id derives from the name.
    pub(crate) fn ensure(&self, new: NewNetwork) -> Result<NetworkRecord> {
        if let Some(found) = self.recorded(&new.name)? {
            return Ok(found);
        }
        if new.name == DEFAULT {
            return self.make_default();
        }
        check_name(&new.name)?;
        let _alone = self.alone()?;
        if let Some(found) = self.recorded(&new.name)? {
            return Ok(found);
        }
        let record = self.plan_named(new)?;
        self.write(&record)?;
        Ok(record)
    }

    /// Whether [`ensure`](Self::ensure) could make it.
    pub(crate) fn check_new(&self, new: NewNetwork) -> Result<()> {
        if new.name != DEFAULT {
            check_name(&new.name)?;
        }
        self.plan_named(new).map(drop)
    }

    fn plan_named(&self, new: NewNetwork) -> Result<NetworkRecord> {
        let id = self.id_of(&new.name)?;
        self.plan(new, id, None, &self.records()?.whole()?)
    }

    /// Makes the default network, unless somebody did meanwhile.
    pub(super) fn make_default(&self) -> Result<NetworkRecord> {
        let _alone = self.alone()?;
        let others = self.records()?.whole()?;
        if let Some(made) = others.iter().find(|other| other.name() == DEFAULT) {
            return Ok(made.clone());
        }
        let record = self.plan_default(&others)?;
        self.write(&record)?;
        Ok(record)
    }

    /// Makes the default network anew where its interface or its subnet is something else's by now: another engine may have chosen
    /// the same while neither stood, and nobody can remove this network. Answers what became of it; `None` where nothing is in
    /// its way, or a container is connected to it.
    pub(crate) fn move_default(&self) -> Result<Option<String>> {
        let _alone = self.alone()?;
        let Some(was) = self.read_record(&self.id_of(DEFAULT)?)? else { return Ok(None) };
        if !self.endpoints(&was.network.id)?.is_empty() || !self.is_displaced(&was)? {
            return Ok(None);
        }
        let others: Vec<_> =
            self.records()?.whole()?.into_iter().filter(|other| other.name() != DEFAULT).collect();
        let now = self.plan_default(&others)?;
        self.leases()?.forget(&was.network.id)?;
        self.write(&now)?;
        Ok(Some(format!(
            "moved network '{DEFAULT}' from {}, which is in use, to {}",
            place(&was),
            place(&now)
        )))
    }

    fn is_displaced(&self, record: &NetworkRecord) -> Result<bool> {
        let network = &record.network;
        match self.driver(&record.driver)?.plan(network.clone()) {
            Err(mica_core::Error::InUse { .. }) => return Ok(true),
            planned => planned?,
        };
        let own = network.interface.as_ref().map(|name| format!("interface '{name}'"));
        let mut taken = taken_by_host()?.into_iter().filter(|taken| Some(&taken.by) != own.as_ref());
        Ok(taken.any(|taken| network.pools.iter().any(|pool| pool.subnet == taken.subnet)))
    }

    fn plan_default(&self, others: &[NetworkRecord]) -> Result<NetworkRecord> {
        let new = || NewNetwork { name: DEFAULT.to_owned(), ..NewNetwork::default() };
        let id = self.id_of(DEFAULT)?;
        match self.plan(new(), id, Some(DEFAULT_INTERFACE.parse()?), others) {
            // The name is another engine's, or nothing that this driver gives.
            Err(Error::Storage(mica_core::Error::InUse { .. } | mica_core::Error::Options(_))) => {
                self.plan(new(), id, None, others)
            }
            planned => planned,
        }
    }

    /// What will be recorded. The caller has the lock.
    fn plan(
        &self,
        new: NewNetwork,
        id: NetworkId,
        interface: Option<InterfaceName>,
        others: &[NetworkRecord],
    ) -> Result<NetworkRecord> {
        let first = self.registry.network_drivers().first().map(|entry| entry.name.to_owned());
        let driver = new.driver.or(first).unwrap_or_default();
        if driver == HOST {
            return Err(Error::Invalid(
                "only one instance of \"host\" network is allowed; containers join it by --network host"
                    .to_owned(),
            ));
        }
        let opened = self.driver(&driver)?;
        let pools = new.addresses.pools(opened.capabilities(), self.owner()?, &ground(others)?)?;
        let wanted = Network {
            name: new.name,
            interface,
            pools,
            internal: new.internal,
            options: new.options.clone(),
            ..Network::unrecorded(id)
        };
        Ok(NetworkRecord {
            driver,
            created: now(),
            labels: new.labels,
            options: new.options,
            auxiliary: new.addresses.auxiliary,
            network: opened.plan(wanted)?,
        })
    }
}

/// Where a network is, for people.
fn place(record: &NetworkRecord) -> String {
    let interface = record.network.interface.iter().map(|name| format!("interface '{name}'"));
    let subnets = record.network.pools.iter().map(|pool| pool.subnet.to_string());
    interface.chain(subnets).collect::<Vec<_>>().join(", ")
}

fn ground(others: &[NetworkRecord]) -> Result<Ground> {
    let taken = |record: &NetworkRecord| {
        let by = format!("network '{}'", record.name());
        let subnets: Vec<_> = record.network.pools.iter().map(|pool| pool.subnet).collect();
        subnets.into_iter().map(move |subnet| Taken { subnet, by: by.clone() })
    };
    Ok(Ground { networks: others.iter().flat_map(taken).collect(), host: taken_by_host()? })
}

fn check_name(name: &str) -> Result<()> {
    if is_predefined(name) || name == "default" {
        return Err(Error::Conflict(format!("the name '{name}' is the engine's own; take another")));
    }
    if is_valid_name(name) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid network name ({}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        name.escape_debug()
    )))
}
