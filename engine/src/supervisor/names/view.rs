//! What the name server of a container tells: the names in its networks, and whom it asks for others.

use std::net::IpAddr;
use std::path::PathBuf;

use mica_names::{HostName, Names, Resolv, View, Wishes};

use super::seen::Seen;
use super::{Member, addresses};
use crate::Result;
use crate::container::{etc, short};
use crate::networks::{EndpointRecord, NetworkRecord, Networks};

/// The networks of a container, as far as names go.
#[derive(Debug)]
pub(super) struct Circle {
    /// Those that have names. The engine's own have none, as with Docker.
    named: Vec<NetworkRecord>,
    /// All of them are cut off, so a query may not leave either.
    is_closed: bool,
    /// Servers that the networks themselves offer.
    offered: Vec<IpAddr>,
    wishes: Wishes,
}

impl Circle {
    pub(super) fn new(members: &[Member], wishes: Wishes) -> Self {
        let named = members.iter().map(|(network, _)| network).filter(|network| !network.is_predefined());
        let attachments = members.iter().filter_map(|(_, endpoint)| endpoint.attachment.as_ref());
        Self {
            named: named.cloned().collect(),
            is_closed: members.iter().all(|(network, _)| network.network.internal),
            offered: attachments.flat_map(|attachment| attachment.resolvers.clone()).collect(),
            wishes,
        }
    }

    /// What is to be told now, and what that was read from.
    pub(super) fn view(&self, networks: &Networks) -> Result<(Seen, View)> {
        let directories = self.named.iter().map(|network| networks.endpoint_dir(&network.network.id));
        let directories = directories.collect::<Result<Vec<_>>>()?;
        let seen = Seen::look(directories.into_iter().chain([PathBuf::from(etc::RESOLV)]));
        let mut names = Names::default();
        for network in &self.named {
            network.network.pools.iter().for_each(|pool| names.insert_subnet(pool.subnet));
            for endpoint in networks.endpoints(&network.network.id)? {
                insert(&mut names, network, &endpoint);
            }
        }
        Ok((seen, View { names, servers: self.servers()? }))
    }

    fn servers(&self) -> Result<Vec<mica_names::Server>> {
        if self.is_closed {
            return Ok(Vec::new());
        }
        let mut host = etc::host_resolv()?;
        if !self.offered.is_empty() {
            host = Resolv { servers: self.offered.iter().copied().map(Into::into).collect(), ..host };
        }
        Ok(host.with(&self.wishes).servers)
    }
}

/// Each name stands alone and before the network's, and an address leads to the longer one of the container's own, as with
/// Docker.
fn insert(names: &mut Names, network: &NetworkRecord, endpoint: &EndpointRecord) {
    let addresses = addresses(network, endpoint);
    if addresses.is_empty() {
        // It is on its way up or down.
        return;
    }
    let known = [endpoint.name.as_str(), &endpoint.hostname, short(&endpoint.container)];
    for name in known.into_iter().chain(endpoint.aliases.iter().map(String::as_str)) {
        for name in [format!("{name}.{}", network.name()), name.to_owned()] {
            // What is no host's name nobody can ask for.
            if let Ok(name) = name.parse::<HostName>() {
                names.insert(&name, &addresses);
            }
        }
    }
}
