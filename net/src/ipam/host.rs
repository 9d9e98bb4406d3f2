//! What this host's own network uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mica_core::Result;
use mica_core::network::Subnet;

use super::Taken;
use crate::netlink::{Netlink, address, link, route};

/// What routes of any table lead to, and the subnets of all interfaces, also of those that are down, in the network
/// namespace that the calling thread is in.
///
/// Routes to everybody are no use of an address. OpenVPN writes one as two halves of all addresses, so those do not count
/// either (docker/libnetwork#779).
pub fn taken_by_host() -> Result<Vec<Taken>> {
    let mut netlink = Netlink::open()?;
    let links = link::links(&mut netlink)?.into_iter();
    let names: BTreeMap<u32, String> = links.map(|link| (link.index, link.name)).collect();
    let by = |index: Option<u32>| match index.and_then(|index| names.get(&index)) {
        Some(name) => format!("interface '{name}'"),
        None => "a route with several ways".to_owned(),
    };
    let routed = route::routes(&mut netlink)?.into_iter().map(|route| (route.destination, route.interface));
    let borne =
        address::all(&mut netlink)?.into_iter().map(|(index, address)| (address.subnet(), Some(index)));
    let counts = |subnet: Subnet| {
        // Link-local addresses of IPv6 mean something else on each link.
        let is_local = matches!(subnet.first(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        subnet.prefix() > 1 && !is_local
    };
    let mut taken: Vec<_> = routed
        .chain(borne)
        .filter(|(subnet, _)| counts(*subnet))
        .map(|(subnet, index)| Taken { subnet, by: by(index) })
        .collect();
    taken.sort_by(|one, other| (one.subnet, &one.by).cmp(&(other.subnet, &other.by)));
    taken.dedup();
    Ok(taken)
}
