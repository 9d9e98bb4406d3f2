//! The published ports of a container, and which of its networks they are on.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};

use mica_core::network::{Families, Family, Port};

use super::Sandbox;
use crate::Result;
use crate::networks::{Elected, NetworkRecord};
use crate::ports::Reserved;

/// How the gateways of a container publish its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Publishing {
    /// In none, nothing is published.
    families: Families,
    /// At which of the host's addresses, where a port names none; `None`: at all.
    at: Option<Ipv4Addr>,
}

impl Publishing {
    fn any(self) -> bool {
        self.families != Families::NONE
    }
}

impl Sandbox<'_> {
    /// How the gateways, which are among these networks, publish ports.
    pub(super) fn publishing(&self, elected: &Elected, networks: &[&NetworkRecord]) -> Result<Publishing> {
        let mut publishing = Publishing::default();
        for network in networks {
            let gateway = elected.of(&network.network.id);
            if gateway != Families::NONE && self.can_publish(network)? {
                publishing.families.v4 |= gateway.v4;
                publishing.families.v6 |= gateway.v6;
                publishing.at = publishing.at.or(network.binding(gateway));
            }
        }
        Ok(publishing)
    }

    fn can_publish(&self, network: &NetworkRecord) -> Result<bool> {
        Ok(self.networks.driver(&network.driver)?.capabilities().ports.is_yes())
    }

    /// Keeps the host's ports from the moment on at which they are published in any family, and gives them back when they are in
    /// none any more. Where another gateway publishes at another address, all are taken anew.
    pub(super) fn publish(&mut self, publishing: Publishing) -> Result<()> {
        let before = std::mem::take(&mut self.publishing);
        let stay = publishing.any() && before.any() && before.at == publishing.at;
        if !stay {
            self.relay = None;
            self.ports = Reserved::default();
        }
        if publishing.any() && !stay {
            self.ports = self.with_room(|sandbox| sandbox.reserve(publishing))?;
        }
        self.publishing = publishing;
        Ok(())
    }

    fn reserve(&self, publishing: Publishing) -> Result<Reserved> {
        let known = OnceCell::new();
        let who = |port: &Port| {
            // Whose it is helps who reads the error; that it is taken is known already.
            let known: &Vec<_> = known.get_or_init(|| {
                let own = Some(self.container.id());
                self.networks.published(own).unwrap_or_default()
            });
            known.iter().find(|(other, _)| other.overlaps(port)).map(|(_, holder)| holder.clone())
        };
        let published = self.container.record().settings.networking.published();
        let wishes: Vec<_> = published.iter().map(|wish| wish.or_at(publishing.at)).collect();
        Reserved::reserve(&wishes, publishing.families, &who)
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
