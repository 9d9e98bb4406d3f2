//! A network as `inspect` shows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use mica_core::network::{Families, Family, Pool};
use serde_json::{Map, Value, json};

use super::{EndpointRecord, NetworkRecord, Networks};
use crate::Result;

impl NetworkRecord {
    /// Whether it has addresses of this family.
    pub fn has(&self, family: Family) -> bool {
        self.network.pools.iter().any(|pool| pool.subnet.family() == family)
    }

    /// The host's address at which it publishes ports that name none, as the gateway in these families.
    pub(crate) fn binding(&self, gateway: Families) -> Option<Ipv4Addr> {
        self.network.binding.filter(|_| gateway.v4)
    }

    /// Where it is left for other networks, if it can be.
    pub(crate) fn router(&self, family: Family) -> Option<IpAddr> {
        let pools = self.network.pools.iter().filter(|_| self.network.routes.has(family));
        pools.into_iter().find(|pool| pool.subnet.family() == family)?.gateway
    }
}

impl Networks {
    /// Everything about a network, in Docker's shape.
    pub fn inspect(&self, record: &NetworkRecord) -> Result<Value> {
        let endpoints = self.endpoints(&record.network.id)?;
        let containers: Map<String, Value> =
            endpoints.iter().map(|endpoint| (endpoint.container.clone(), connected(endpoint))).collect();
        let config: Vec<Value> =
            record.network.pools.iter().map(|pool| configured(pool, &record.auxiliary)).collect();
        Ok(json!({
            "Name": record.name(),
            "Id": record.id(),
            "Created": record.created,
            "Scope": "local",
            "Driver": record.driver,
            "EnableIPv4": record.has(Family::V4),
            "EnableIPv6": record.has(Family::V6),
            "IPAM": { "Driver": "default", "Options": {}, "Config": config },
            "Internal": record.network.internal,
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": containers,
            "Options": record.options,
            "Labels": record.labels,
        }))
    }
}

fn configured(pool: &Pool, auxiliary: &BTreeMap<String, IpAddr>) -> Value {
    let mut config = Map::from_iter([("Subnet".to_owned(), json!(pool.subnet.to_string()))]);
    if let Some(range) = pool.range {
        config.insert("IPRange".to_owned(), json!(range.to_string()));
    }
    if let Some(gateway) = pool.gateway {
        config.insert("Gateway".to_owned(), json!(gateway));
    }
    let inside: BTreeMap<_, _> = auxiliary.iter().filter(|(_, ip)| pool.reserved.contains(ip)).collect();
    if !inside.is_empty() {
        config.insert("AuxiliaryAddresses".to_owned(), json!(inside));
    }
    config.into()
}

fn connected(record: &EndpointRecord) -> Value {
    let interface = record.attachment.as_ref().and_then(|attachment| attachment.interface.as_ref());
    let of = |family: Family| {
        let mut all = interface.iter().flat_map(|interface| &interface.addresses);
        all.find(|address| Family::of(address.ip()) == family).map(ToString::to_string).unwrap_or_default()
    };
    json!({
        "Name": record.name,
        "EndpointID": record.endpoint.id,
        "MacAddress": interface.map(|interface| interface.mac.to_string()).unwrap_or_default(),
        "IPv4Address": of(Family::V4),
        "IPv6Address": of(Family::V6),
    })
}
