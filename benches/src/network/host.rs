//! A host with a network of a driver.

use std::os::fd::AsFd;

use mica_core::network::{
    Attachment, Endpoint, Families, InterfaceName, Network, NetworkDriver, NetworkId, OwnerId, Pool, Port,
    Scope, Subnet,
};
use mica_core::registry::NetworkEntry;
use mica_core::{Error, OptionMap};
use tempfile::TempDir;

use super::{Connects, Container, Machine, SUBNETS};
use crate::Result;

/// Whose rules they are.
pub(crate) const OWNER: OwnerId = OwnerId::from_bytes(*b"mica-one");

/// A host with a network, which is up.
#[derive(Debug)]
pub(crate) struct Host {
    machine: Machine,
    driver: Box<dyn NetworkDriver>,
    network: Network,
    _dir: TempDir,
}

/// A container's endpoint, and what the driver answered.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) endpoint: Endpoint,
    pub(crate) attachment: Option<Attachment>,
}

impl Host {
    /// `None`, and a line that says why, where this machine lacks what the driver needs.
    pub(crate) fn new(
        entry: &NetworkEntry,
        settings: &[(&str, &str)],
        families: Families,
    ) -> Result<Option<Self>> {
        let mut machine = Machine::new()?;
        let dir = tempfile::tempdir().map_err(|e| format!("a directory for a driver: {e}"))?;
        machine.enter()?;
        let stood = stand(entry, settings, families, &dir);
        machine.leave()?;
        match stood {
            Ok((driver, network)) => {
                machine.furnished()?;
                Ok(Some(Self { machine, driver, network, _dir: dir }))
            }
            Err(Error::Unavailable { reason }) => {
                eprintln!("mica-bench: {} with {settings:?} is left out: {reason}", entry.name);
                Ok(None)
            }
            Err(error) => Err(format!("{} with {settings:?}: {error}", entry.name)),
        }
    }

    /// What the engine does before each attachment.
    pub(crate) fn up(&self) -> Result<()> {
        self.driver.up(&self.network).map(drop).map_err(told)
    }

    /// Publishes these ports of a container and no others.
    pub(crate) fn publish(&self, container: &Container, place: &mut Place, ports: Vec<Port>) -> Result<()> {
        let was = place.attachment.take().ok_or("it is not attached")?;
        place.endpoint.ports = ports;
        let namespace = container.namespace.as_fd();
        let now = self.driver.update(&self.network, &was, &place.endpoint, namespace).map_err(told)?;
        place.attachment = Some(now);
        Ok(())
    }
}

fn stand(
    entry: &NetworkEntry,
    settings: &[(&str, &str)],
    families: Families,
    dir: &TempDir,
) -> mica_core::Result<(Box<dyn NetworkDriver>, Network)> {
    let setting = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let settings: OptionMap = settings.iter().map(setting).collect();
    let driver = (entry.open)(OWNER, dir.path(), &settings)?;
    let mut wanted = Network::unrecorded(NetworkId::from_bytes([0x6e; 16]));
    for text in SUBNETS {
        let subnet: Subnet = text.parse()?;
        if families.has(subnet.family()) {
            wanted.pools.push(Pool { subnet, gateway: None, range: None, reserved: Vec::new() });
        }
    }
    let network = driver.plan(wanted)?;
    driver.up(&network)?;
    Ok((driver, network))
}

impl Connects for Host {
    type Place = Place;

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn place(&self, container: &Container) -> Result<Place> {
        let has = |family| self.network.pools.iter().any(|pool| pool.subnet.family() == family);
        let families =
            Families { v4: has(mica_core::network::Family::V4), v6: has(mica_core::network::Family::V6) };
        let endpoint = Endpoint {
            id: container.id(),
            interface: InterfaceName::inner(0),
            addresses: container.addresses(families)?.iter().map(|address| address.ip()).collect(),
            mac: None,
            gateway: self.network.routes,
            ports: Vec::new(),
            options: OptionMap::new(),
        };
        Ok(Place { endpoint, attachment: None })
    }

    fn attach(&self, container: &Container, place: &mut Place) -> Result<()> {
        let namespace = container.namespace.as_fd();
        let attached = self.driver.attach(&self.network, &place.endpoint, namespace).map_err(told)?;
        place.attachment = Some(attached);
        Ok(())
    }

    fn detach(&self, place: Place) -> Result<()> {
        let detached = self.driver.detach(&self.network, &place.endpoint, place.attachment.as_ref(), None);
        detached.map_err(told)
    }

    fn check_empty(&self) -> Result<()> {
        let owned = self.driver.list().map_err(told)?;
        match owned.iter().find(|owned| matches!(owned.scope, Scope::Endpoint(..))) {
            Some(left) => Err(format!("of a container {} is left", left.object)),
            None => self.machine.check_links(),
        }
    }
}

/// For a person.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
