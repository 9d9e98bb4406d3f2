//! The published ports of a container, and which of its networks they are on.

use std::cell::OnceCell;
use std::net::IpAddr;

use mica_core::network::{Families, Family, Port};

use super::Sandbox;
use crate::Result;
use crate::networks::{Elected, NetworkRecord};
use crate::ports::Reserved;

impl Sandbox<'_> {
    /// In which families the gateway, which is one of these networks, publishes ports.
    pub(super) fn publishing(&self, elected: &Elected, networks: &[&NetworkRecord]) -> Result<Families> {
        let mut families = Families::NONE;
        for network in networks {
            let gateway = elected.of(&network.network.id);
            if gateway != Families::NONE && self.can_publish(network)? {
                families = Families { v4: families.v4 || gateway.v4, v6: families.v6 || gateway.v6 };
            }
        }
        Ok(families)
    }

    fn can_publish(&self, network: &NetworkRecord) -> Result<bool> {
        Ok(self.networks.driver(&network.driver)?.capabilities().ports.is_yes())
    }

    /// Keeps the host's ports from the moment on at which they are published in any family, and gives them back when they are in
    /// none any more.
    pub(super) fn publish_in(&mut self, families: Families) -> Result<()> {
        if families == Families::NONE {
            self.relay = None;
            self.ports = Reserved::default();
        } else if self.published_in == Families::NONE {
            self.ports = self.with_room(|sandbox| sandbox.reserve(families))?;
        }
        self.published_in = families;
        Ok(())
    }

    fn reserve(&self, families: Families) -> Result<Reserved> {
        let known = OnceCell::new();
        let who = |port: &Port| {
            // Whose it is helps who reads the error; that it is taken is known already.
            let known: &Vec<_> = known.get_or_init(|| self.networks.published().unwrap_or_default());
            known.iter().find(|(other, _)| other.overlaps(port)).map(|(_, holder)| holder.clone())
        };
        let published = self.container.record().settings.networking.published();
        Reserved::reserve(&published, families, &who)
    }

    /// Those that a network publishes that is the gateway in these families.
    pub(super) fn ports_at(&self, network: &NetworkRecord, gateway: Families) -> Result<Vec<Port>> {
        if gateway == Families::NONE || !self.can_publish(network)? {
            return Ok(Vec::new());
        }
        let is_led = |port: &&Port| port.address().is_none_or(|address| gateway.has(Family::of(address)));
        Ok(self.ports.ports().iter().filter(is_led).copied().collect())
    }

    /// Those at `::1` that lead to an endpoint that is the gateway in these families.
    pub(super) fn loopback6_at(&self, gateway: Families) -> Vec<Port> {
        if gateway == Families::NONE { Vec::new() } else { self.ports.loopback6().to_vec() }
    }

    /// The container's addresses in its gateways, of IPv4 first.
    pub(super) fn gateway_addresses(&self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for family in [Family::V4, Family::V6] {
            let gateways = self.members.iter().filter(|(_, record)| record.endpoint.gateway.has(family));
            let interfaces =
                gateways.filter_map(|(_, record)| record.attachment.as_ref()?.interface.as_ref());
            let own = interfaces.flat_map(|interface| &interface.addresses).map(|address| address.ip());
            addresses.extend(own.filter(|ip| Family::of(*ip) == family && !is_link_local(*ip)));
        }
        addresses
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
