//! What a network of this driver is, before anything is made.

use std::net::IpAddr;

use mica_core::network::{Families, Family, InterfaceName, Network, Pool, Scope};
use mica_core::options::OptionMap;
use mica_core::{Error, Result, options};

use super::NAME;
use crate::ipam;
use crate::netlink::Netlink;
use crate::netlink::link::{self, Link};
use crate::netlink::route::{self, Route};

mica_core::driver_options! {
    /// What `mica network create -d macvlan -o NAME=VALUE` sets.
    pub(super) struct Options {
        /// The interface of the host whose neighbours the containers become; without it that of the default route.
        parent: Option<InterfaceName> = None,
        /// The MTU of every interface; without it the parent's, and never more than that.
        mtu: Option<u32> = None,
        /// How containers reach each other. The one way there is: 'bridge', directly.
        mode: String = "bridge".to_owned(),
    }
}

mica_core::driver_options! {
    /// An endpoint has no options.
    pub(super) struct EndpointOptions {}
}

/// Docker's names, with ours.
const DOCKERS: [(&str, &str); 2] = [("com.docker.network.driver.mtu", "mtu"), ("macvlan_mode", "mode")];

impl Options {
    fn read(given: &OptionMap) -> Result<Self> {
        let mut own = OptionMap::new();
        for (name, value) in given {
            let ours =
                DOCKERS.iter().find(|(docker, _)| docker == name).map_or(name.as_str(), |(_, ours)| ours);
            if own.insert(ours.to_owned(), value.clone()).is_some_and(|other| other != *value) {
                return Err(Error::Options(format!("option '{ours}' has two values; give one of them")));
            }
        }
        let options: Self = options::parse_network(NAME, &own, Self::DOCS)?;
        // The kernel's others need a switch that sends frames back where they came from, or cut containers off.
        if options.mode != "bridge" {
            let mode = options.mode.escape_debug();
            return Err(Error::Options(format!(
                "network option 'mode' is '{mode}': there is none but 'bridge'"
            )));
        }
        Ok(options)
    }
}

/// Completes a network: its parent, its MTU, its gateways. The parent and the MTU move from the options to their fields.
pub(super) fn plan(netlink: &mut Netlink, wanted: Network) -> Result<Network> {
    let Options { parent, mtu, .. } = Options::read(&wanted.options)?;
    let named = one_of("parent", parent, wanted.interface)?;
    let routes = route::routes(netlink)?;
    let parent = match named {
        Some(name) => by_name(netlink, &name)?,
        None => of_default_route(netlink, &routes)?,
    };
    can_bear(&parent, &wanted.name)?;
    let mtu = fitting(one_of("mtu", mtu, wanted.mtu)?, &parent, &wanted.pools)?;
    let mut pools = wanted.pools;
    let mut families = Families::NONE;
    for pool in &mut pools {
        let family = pool.subnet.family();
        if families.has(family) {
            return Err(Error::Options(format!("a network of driver '{NAME}' has one subnet of {family}")));
        }
        pool.gateway =
            pool.gateway.or_else(|| gateway(&routes, &parent, pool)).or_else(|| ipam::router(pool));
        ipam::check_pool(pool)?;
        match family {
            Family::V4 => families.v4 = true,
            Family::V6 => families.v6 = true,
        }
    }
    let interface = Some(parent.name.parse()?);
    let options = OptionMap::new();
    Ok(Network { interface, pools, routes: families, mtu: Some(mtu), options, ..wanted })
}

pub(super) fn has_ipv6(net: &Network) -> bool {
    net.pools.iter().any(|pool| pool.subnet.family() == Family::V6)
}

/// What was given as an option, as a field, or both alike.
fn one_of<T: PartialEq + std::fmt::Display>(
    what: &str,
    option: Option<T>,
    field: Option<T>,
) -> Result<Option<T>> {
    match (option, field) {
        (Some(option), Some(field)) if option != field => Err(Error::Options(format!(
            "option '{what}' is '{option}', and the network was to have '{field}'; give one of them"
        ))),
        (option, field) => Ok(option.or(field)),
    }
}

fn by_name(netlink: &mut Netlink, name: &InterfaceName) -> Result<Link> {
    if let Some(link) = link::by_name(netlink, name.as_str())? {
        return Ok(link);
    }
    let links = link::links(netlink)?;
    let names: Vec<_> =
        links.iter().filter(|link| link.mac.is_some()).map(|link| link.name.as_str()).collect();
    let others = match &names[..] {
        [] => "the host has none but its loopback".to_owned(),
        names => format!("take one of: {}", names.join(", ")),
    };
    Err(Error::Options(format!("there is no interface '{name}' to be the parent; {others}")))
}

fn of_default_route(netlink: &mut Netlink, routes: &[Route]) -> Result<Link> {
    let best = routes.iter().filter(|route| route.is_default()).min_by_key(|route| route.metric);
    let link = match best.and_then(|route| route.interface) {
        Some(index) => link::by_index(netlink, index)?,
        None => None,
    };
    link.ok_or_else(|| {
        Error::Options(
            "the host has no default route to take the parent from; name it, as in -o parent=eth1".to_owned(),
        )
    })
}

/// The kernel puts these interfaces on what has hardware addresses and no other use.
fn can_bear(parent: &Link, network: &str) -> Result<()> {
    let name = &parent.name;
    if parent.mac.is_none() {
        return Err(Error::Options(format!(
            "'{name}' has no hardware address, so it cannot be the parent of network '{network}'; take an Ethernet interface"
        )));
    }
    let in_use = |by: &str| Err(Error::InUse { what: format!("interface '{name}'"), by: by.to_owned() });
    match parent.mark().map(|mark| mark.scope) {
        Some(Scope::Network(id)) => return in_use(&format!("network '{id}'")),
        Some(_) => return in_use("another network"),
        None => {}
    }
    if parent.master.is_some() { in_use("the bridge or bond that it is a port of") } else { Ok(()) }
}

fn fitting(wished: Option<u32>, parent: &Link, pools: &[Pool]) -> Result<u32> {
    let most = parent.mtu;
    // RFC 791 and RFC 8200, 5: less than this no link may carry.
    let least = if pools.iter().any(|pool| pool.subnet.family() == Family::V6) { 1280 } else { 68 };
    let mtu = wished.unwrap_or(most);
    if !(least..=most).contains(&mtu) {
        return Err(Error::Options(format!(
            "MTU {mtu} does not fit '{}'; take {least} to {most}",
            parent.name
        )));
    }
    Ok(mtu)
}

/// The router that the host itself takes out of the parent, if it is in this subnet.
fn gateway(routes: &[Route], parent: &Link, pool: &Pool) -> Option<IpAddr> {
    let ours = routes.iter().filter(|route| route.is_default() && route.interface == Some(parent.index));
    let gateways = ours.filter_map(|route| Some((route.metric, route.gateway?)));
    let inside = gateways.filter(|(_, gateway)| pool.subnet.contains(*gateway));
    inside.min_by_key(|(metric, _)| *metric).map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Options> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options::read(&given.collect())
    }

    fn link(name: &str) -> Link {
        let mac = "02:00:00:00:00:01".parse().ok();
        Link { index: 3, name: name.to_owned(), mac, mtu: 1500, up: true, ..Link::default() }
    }

    #[test]
    fn dockers_names_are_understood_and_its_other_modes_refused() {
        let options = read(&[("parent", "eth1"), ("macvlan_mode", "bridge")]).unwrap();
        assert_eq!(options.parent.unwrap().as_str(), "eth1");
        assert_eq!(read(&[("com.docker.network.driver.mtu", "1400")]).unwrap().mtu, Some(1400));
        for (given, part) in [
            (&[("macvlan_mode", "private")][..], "'mode' is 'private'"),
            (&[("mtu", "1400"), ("com.docker.network.driver.mtu", "1500")], "two values"),
            (&[("parent", "../eth0")], "cannot be the name of an interface"),
            (&[("ipvlan_mode", "l2")], "parent, mtu, mode"),
        ] {
            let text = read(given).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_interface_with_another_use_is_no_parent() {
        can_bear(&link("eth1"), "lan").unwrap();
        let mark = format!("mica:{}:{}", "01".repeat(8), "02".repeat(16));
        for (bad, part) in [
            (Link { mac: None, ..link("lo") }, "no hardware address"),
            (Link { master: Some(2), ..link("eth1") }, "port of"),
            (Link { alias: Some(mark), ..link("mica0") }, "in use by network '0202"),
        ] {
            let text = can_bear(&bad, "lan").unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_mtu_fits_the_parent_and_the_family() {
        let v6 =
            Pool { subnet: "fd00::/64".parse().unwrap(), gateway: None, range: None, reserved: Vec::new() };
        assert_eq!(fitting(None, &link("eth1"), &[]).unwrap(), 1500);
        assert_eq!(fitting(Some(100), &link("eth1"), &[]).unwrap(), 100);
        for (mtu, pools) in [(1501, &[][..]), (67, &[]), (1279, std::slice::from_ref(&v6))] {
            assert!(fitting(Some(mtu), &link("eth1"), pools).is_err(), "{mtu}");
        }
    }

    #[test]
    fn the_hosts_own_router_is_the_containers_where_it_is_in_the_subnet() {
        let route = |gateway: &str, interface| Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: gateway.parse().ok(),
            interface: Some(interface),
            table: 254,
            metric: 0,
            mtu: None,
        };
        let pool = |subnet: &str| Pool {
            subnet: subnet.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Vec::new(),
        };
        let routes = [route("10.0.0.254", 3), route("10.0.1.254", 4)];
        assert_eq!(gateway(&routes, &link("eth1"), &pool("10.0.0.0/24")), "10.0.0.254".parse().ok());
        assert_eq!(gateway(&routes, &link("eth1"), &pool("10.0.1.0/24")), None, "of another interface");
    }
}
