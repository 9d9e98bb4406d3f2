//! What `inspect` shows of a container's networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mica_core::network::{Address, Family, Publish};
use serde_json::{Map, Value, json};

use super::super::{Connection, Container, NetworkMode, Settings, State, published};
use crate::networks::{self, EndpointRecord, NetworkRecord};
use crate::{Engine, Result};

/// The networks of a container, and what stands of each now.
pub(super) struct Seen {
    connections: Vec<(Connection, Option<EndpointRecord>)>,
    records: Vec<NetworkRecord>,
}

impl Seen {
    pub(super) fn of(engine: &Engine, container: &Container) -> Result<Self> {
        let connections = engine.connections(container)?;
        let records = match container.record().settings.networking.mode {
            NetworkMode::Container(_) => Vec::new(),
            _ => engine.networks().all()?.found,
        };
        Ok(Self { connections, records })
    }

    /// In Docker's words: the first network is what the container was made for.
    pub(super) fn mode(&self, settings: &Settings) -> String {
        match &settings.networking.mode {
            NetworkMode::None => networks::NONE.to_owned(),
            NetworkMode::Host => networks::HOST.to_owned(),
            NetworkMode::Container(id) => format!("container:{id}"),
            NetworkMode::Connected => {
                let first = self.connections.first();
                first.map_or_else(|| networks::NONE.to_owned(), |(connection, _)| connection.name.clone())
            }
        }
    }

    /// `NetworkSettings`.
    pub(super) fn settings(&self, settings: &Settings, state: &State) -> Value {
        let sandbox = if state.pid > 0 { format!("/proc/{}/ns/net", state.pid) } else { String::new() };
        let mut shown = json!({
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": sandbox,
            "Ports": if state.status.is_live() { self.ports(settings) } else { json!({}) },
            "Networks": self.networks(settings),
        });
        // Of the default network its parts are shown a second time, as they were before there were others.
        let default = self.connections.iter().find(|(connection, _)| connection.name == networks::DEFAULT);
        let place = default.map(|(connection, endpoint)| self.place(connection, endpoint.as_ref()));
        let place = place.unwrap_or_else(|| standing(None, None));
        if let (Some(shown), Some(place)) = (shown.as_object_mut(), place.as_object()) {
            let names = ["EndpointID", "MacAddress"].into_iter().chain(ADDRESSES);
            shown.extend(names.map(|name| (name.to_owned(), place.get(name).cloned().unwrap_or_default())));
        }
        shown
    }

    fn ports(&self, settings: &Settings) -> Value {
        let mut ports: BTreeMap<String, Value> = exposed(settings).map(|port| (port, Value::Null)).collect();
        for port in published::published(&self.connections) {
            for (host, container) in port.host.ports().zip(port.container.ports()) {
                let bindings = ports.entry(format!("{container}/{}", port.protocol)).or_default();
                let binding = json!({ "HostIp": port.address, "HostPort": host.to_string() });
                match bindings.as_array_mut() {
                    Some(bindings) => bindings.push(binding),
                    None => *bindings = json!([binding]),
                }
            }
        }
        json!(ports)
    }

    fn networks(&self, settings: &Settings) -> Value {
        let alone = match settings.networking.mode {
            NetworkMode::None => Some(networks::NONE),
            NetworkMode::Host => Some(networks::HOST),
            NetworkMode::Container(_) | NetworkMode::Connected => None,
        };
        let mut shown = Map::new();
        for (connection, endpoint) in &self.connections {
            shown.insert(connection.name.clone(), self.place(connection, endpoint.as_ref()));
        }
        for record in self.records.iter().filter(|record| Some(record.name()) == alone) {
            let mut place = standing(None, None);
            place["NetworkID"] = record.id().into();
            shown.insert(record.name().to_owned(), place);
        }
        shown.into()
    }

    /// The container's place in one network.
    fn place(&self, connection: &Connection, endpoint: Option<&EndpointRecord>) -> Value {
        let wish = &connection.wish;
        let record = self.records.iter().find(|record| record.network.id == connection.network);
        let mut place = standing(endpoint, record);
        let list = |names: &[String]| if names.is_empty() { Value::Null } else { names.into() };
        let wished = [
            ("IPAMConfig", wished(&wish.addresses, &wish.link_local)),
            ("Links", Value::Null),
            ("Aliases", list(&wish.aliases)),
            ("DriverOpts", if wish.options.is_empty() { Value::Null } else { json!(wish.options) }),
            ("GwPriority", wish.priority.into()),
            ("NetworkID", connection.network.to_string().into()),
            ("DNSNames", list(&names(connection, endpoint))),
        ];
        if let Some(place) = place.as_object_mut() {
            place.extend(wished.map(|(name, value)| (name.to_owned(), value)));
        }
        place
    }
}

const ADDRESSES: [&str; 6] =
    ["Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen"];

/// What there is of a place in a network, in Docker's words; all of it empty where the container does not run.
fn standing(endpoint: Option<&EndpointRecord>, record: Option<&NetworkRecord>) -> Value {
    let attachment = endpoint.and_then(|endpoint| endpoint.attachment.as_ref());
    let interface = attachment.and_then(|attachment| attachment.interface.as_ref());
    let address = |family| {
        let mut all = interface.iter().flat_map(|interface| &interface.addresses);
        all.find(|address| Family::of(address.ip()) == family && !is_of_link(address.ip())).copied()
    };
    let ip = |family| address(family).map(|address: Address| address.ip().to_string()).unwrap_or_default();
    let prefix = |family| address(family).map_or(0, Address::prefix);
    let gateway = |family| {
        let own = attachment.iter().flat_map(|attachment| &attachment.gateways).copied();
        let router = record.and_then(|record| record.router(family)).filter(|_| attachment.is_some());
        let found = own.into_iter().find(|gateway| Family::of(*gateway) == family).or(router);
        found.map(|gateway| gateway.to_string()).unwrap_or_default()
    };
    json!({
        "EndpointID": endpoint.map(|endpoint| endpoint.endpoint.id.to_string()).unwrap_or_default(),
        "MacAddress": interface.map(|interface| interface.mac.to_string()).unwrap_or_default(),
        "Gateway": gateway(Family::V4),
        "IPAddress": ip(Family::V4),
        "IPPrefixLen": prefix(Family::V4),
        "IPv6Gateway": gateway(Family::V6),
        "GlobalIPv6Address": ip(Family::V6),
        "GlobalIPv6PrefixLen": prefix(Family::V6),
    })
}

fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn wished(addresses: &[IpAddr], link_local: &[IpAddr]) -> Value {
    let mut wished = Map::new();
    for address in addresses {
        let name = if address.is_ipv4() { "IPv4Address" } else { "IPv6Address" };
        wished.insert(name.to_owned(), json!(address));
    }
    if !link_local.is_empty() {
        wished.insert("LinkLocalIPs".to_owned(), json!(link_local));
    }
    if wished.is_empty() { Value::Null } else { wished.into() }
}

/// What other containers of the network find it by now. On the default network none is found by name.
fn names(connection: &Connection, endpoint: Option<&EndpointRecord>) -> Vec<String> {
    let Some(endpoint) = endpoint.filter(|_| connection.name != networks::DEFAULT) else { return Vec::new() };
    let mut names = vec![endpoint.name.clone()];
    let short = endpoint.container.get(..12).unwrap_or(&endpoint.container).to_owned();
    for name in endpoint.aliases.iter().cloned().chain([short, endpoint.hostname.clone()]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `HostConfig.PortBindings`: what is wished for, whether it runs or not.
pub(super) fn bindings(settings: &Settings) -> Value {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for publish in &settings.networking.publish {
        let address = publish.address().map(|address| address.to_string()).unwrap_or_default();
        let mut bind = |container: u16, host: String| {
            let name = format!("{container}/{}", publish.protocol());
            bindings.entry(name).or_default().push(json!({ "HostIp": address, "HostPort": host }));
        };
        match publish.host() {
            None => publish.container().ports().for_each(|port| bind(port, String::new())),
            // Any of several will do.
            Some(host) if host.count() != publish.container().count() => {
                bind(publish.container().first(), host.to_string());
            }
            Some(host) => {
                let pairs = publish.container().ports().zip(host.ports());
                pairs.for_each(|(container, host)| bind(container, host.to_string()));
            }
        }
    }
    json!(bindings)
}

/// `Config.ExposedPorts`: what the image and the user say that it listens on, and what is published.
pub(super) fn exposed_ports(settings: &Settings) -> Value {
    let ports: BTreeMap<String, Value> = exposed(settings).map(|port| (port, json!({}))).collect();
    if ports.is_empty() { Value::Null } else { json!(ports) }
}

fn exposed(settings: &Settings) -> impl Iterator<Item = String> {
    let said = settings.networking.exposed.iter().chain(&settings.networking.publish);
    let each = |publish: &Publish| {
        let protocol = publish.protocol();
        publish.container().ports().map(move |port| format!("{port}/{protocol}"))
    };
    said.flat_map(each)
}
