//! Which elements a network and an endpoint are.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use mica_core::network::{Mac, Mark, OwnerId, PortRange, Protocol, Scope};

use super::ruleset::{FROM, INNER, TO};
use super::set::{Element, Family, Measures, Set, ifname, octets};
use crate::firewall::{Ground, Guarded, Lead, Numbered};

/// The elements that stand for a network.
pub(super) fn of_network(owner: OwnerId, ground: &Ground) -> Vec<Element> {
    let mark = Mark { owner, scope: Scope::Network(ground.network) };
    let bridge = ifname(&ground.bridge);
    let (from, to) = if ground.internal { (INNER, INNER) } else { (FROM, TO) };
    let mut elements = vec![
        Element::new(Set::Bridges, mark, &[&bridge], &[]),
        Element::new(Set::From, mark, &[&bridge], &[from.as_bytes()]),
        Element::new(Set::To, mark, &[&bridge], &[to.as_bytes()]),
    ];
    if ground.internal {
        elements.push(Element::new(Set::Internal, mark, &[&bridge], &[]));
    }
    if ground.icc {
        elements.push(Element::new(Set::Together, mark, &[&bridge, &bridge], &[]));
    }
    elements
}

/// The element that closes a family to foreign interfaces.
pub(super) fn closing(owner: OwnerId, family: Family) -> Element {
    Element::new(Set::Closed, Mark { owner, scope: Scope::Driver }, &[&[family.nfproto()]], &[])
}

/// The elements that stand for an endpoint: what it may send, where it is, and what is published.
pub(super) fn of_endpoint(ground: &Ground, endpoint: &Guarded) -> Vec<Element> {
    let mark = endpoint.mark;
    let (bridge, port) = (ifname(&ground.bridge), ifname(&endpoint.interface));
    let set = |set, key: &[&[u8]]| Element::new(set, mark, key, &[]);
    let hardware = endpoint.mac.octets();
    let mut elements = vec![set(Set::Ports, &[&port]), set(Set::Hardware, &[&port, &hardware])];
    for address in &endpoint.addresses {
        let (family, bytes) = (Family::of(*address), octets(*address));
        elements.push(match family {
            Family::V4 => set(Set::Sources(family), &[&port, &hardware, &bytes]),
            Family::V6 => set(Set::Sources(family), &[&port, &bytes]),
        });
        // Link-local ones mean another host behind each interface.
        if ground.subnets.iter().any(|subnet| subnet.contains(*address)) {
            elements.push(set(Set::Addresses(family), &[&bytes]));
            elements.push(set(Set::Home(family), &[&bytes, &bridge]));
            if ground.masquerade && !ground.internal {
                elements.push(set(Set::Masqueraded(family), &[&bytes]));
            }
        }
    }
    let by_hardware = link_local(endpoint.mac);
    if !endpoint.addresses.contains(&by_hardware) {
        elements.push(set(Set::Sources(Family::V6), &[&port, &octets(by_hardware)]));
    }
    elements.extend(published_by(ground, endpoint));
    elements
}

/// Those of them that publish its ports.
pub(super) fn of_leads(ground: &Ground, endpoint: &Guarded) -> HashSet<Element> {
    published_by(ground, endpoint).collect()
}

fn published_by(ground: &Ground, endpoint: &Guarded) -> impl Iterator<Item = Element> {
    endpoint.leads(ground).into_iter().flat_map(|lead| published(endpoint.mark, lead))
}

/// One element for each port.
fn published(mark: Mark, lead: Lead) -> impl Iterator<Item = Element> {
    let Lead { protocol, at, host, to, container } = lead;
    let protocol = [protocol.number()];
    host.ports().zip(container.ports()).map(move |(from, port)| {
        let (from, port) = (from.to_be_bytes(), port.to_be_bytes());
        let value: [&[u8]; 2] = [&octets(to), &port];
        match at {
            Some(at) => {
                let key: [&[u8]; 3] = [&octets(at), &protocol, &from];
                Element::new(Set::PublishedAt(Family::of(to)), mark, &key, &value)
            }
            None => Element::new(Set::Published(Family::of(to)), mark, &[&protocol, &from], &value),
        }
    })
}

/// What the element publishes; `None` for one that publishes nothing.
pub(super) fn lead(element: &Element) -> Option<Lead> {
    let (at, rest) = match element.set {
        Set::Published(_) => (None, &element.key[..]),
        Set::PublishedAt(family) => {
            let (at, rest) = element.key.split_at_checked(family.address() as usize)?;
            (Some(address(at)?), rest)
        }
        _ => return None,
    };
    let port = |bytes: &[u8]| PortRange::one(u16::from_be_bytes(*bytes.first_chunk()?)).ok();
    let (&[protocol, ..], from) = rest.split_first_chunk::<4>()?;
    let (to, container) = element.value.split_last_chunk::<4>()?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    Some(Lead { protocol, at, host: port(from)?, to: address(to)?, container: port(container)? })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// The address that an interface gives itself (RFC 4291, appendix A).
fn link_local(mac: Mac) -> IpAddr {
    let [a, b, c, d, e, f] = mac.octets();
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f)).into()
}
