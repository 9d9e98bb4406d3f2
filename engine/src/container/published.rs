//! The ports of a container that are published now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{Port, PortRange, Protocol};

use super::{Connection, Container};
use crate::networks::EndpointRecord;
use crate::{Engine, Result};

/// A port of the host, or as many in a row, that leads to one of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The ports of the container.
    pub container: PortRange,
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host; unspecified for all of its family.
    pub address: IpAddr,
    /// The ports of the host.
    pub host: PortRange,
}

impl Engine {
    /// The ports of a container that are published now, in their order.
    pub fn published(&self, container: &Container) -> Result<Vec<Published>> {
        Ok(published(&self.connections(container)?))
    }
}

/// Those of a container with these connections.
pub(super) fn published(connections: &[(Connection, Option<EndpointRecord>)]) -> Vec<Published> {
    let endpoints = connections.iter().filter_map(|(_, endpoint)| endpoint.as_ref());
    let mut ports: Vec<Published> = endpoints.flat_map(of_endpoint).collect();
    ports.sort_by_key(|port| {
        (port.container.first(), port.protocol, port.address, port.host.first(), port.container.last())
    });
    ports
}

fn of_endpoint(record: &EndpointRecord) -> Vec<Published> {
    let Some(attachment) = &record.attachment else { return Vec::new() };
    let families = record.endpoint.gateway;
    let any = [
        families.v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        families.v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    ];
    let at = |port: &Port, address: IpAddr| Published {
        container: port.container(),
        protocol: port.protocol(),
        address,
        host: port.host(),
    };
    let mut ports = Vec::new();
    for port in attachment.ports.iter().chain(&record.loopback6) {
        match port.address() {
            Some(address) => ports.push(at(port, address)),
            None => ports.extend(any.into_iter().flatten().map(|address| at(port, address))),
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use mica_core::network::{Attachment, Endpoint, EndpointId, Families, NetworkId};

    use super::*;
    use crate::container::ConnectWish;

    fn connected(
        gateway: Families,
        ports: &[&str],
        loopback6: &[&str],
    ) -> (Connection, Option<EndpointRecord>) {
        let network = NetworkId::from_bytes([1; 16]);
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Port>>();
        let unrecorded = Endpoint::unrecorded(EndpointId::from_bytes([2; 16]));
        let record = EndpointRecord {
            network,
            container: "c".to_owned(),
            name: "web".to_owned(),
            aliases: Vec::new(),
            hostname: String::new(),
            endpoint: Endpoint { gateway, ..unrecorded },
            attachment: Some(Attachment { ports: read(ports), ..Attachment::default() }),
            loopback6: read(loopback6),
            outside: None,
        };
        (Connection { network, name: "n".to_owned(), wish: ConnectWish::default() }, Some(record))
    }

    fn shown(connections: &[(Connection, Option<EndpointRecord>)]) -> Vec<String> {
        let text = |port: &Published| format!("{}:{}->{}", port.address, port.host, port.container);
        published(connections).iter().map(text).collect()
    }

    #[test]
    fn a_port_at_all_addresses_is_at_those_of_the_families_that_the_network_carries() {
        let both = Families { v4: true, v6: true };
        assert_eq!(shown(&[connected(both, &["8080:80"], &[])]), ["0.0.0.0:8080->80", ":::8080->80"]);
        let four = Families { v4: true, v6: false };
        assert_eq!(shown(&[connected(four, &["8080:80"], &[])]), ["0.0.0.0:8080->80"]);
    }

    #[test]
    fn ports_of_all_networks_are_in_the_order_of_the_containers() {
        let (four, six) = (Families { v4: true, v6: false }, Families { v4: false, v6: true });
        let connections = [
            connected(four, &["127.0.0.1:9:90", "1-3:80-82"], &[]),
            connected(six, &["1-3:80-82"], &["[::1]:9:90"]),
        ];
        let expected = ["0.0.0.0:1-3->80-82", ":::1-3->80-82", "127.0.0.1:9->90", "::1:9->90"];
        assert_eq!(shown(&connections), expected);
    }
}
