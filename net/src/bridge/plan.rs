//! What a network becomes of what was wished for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{Families, Family, InterfaceName, Network, Pool, Subnet};
use mica_core::{Error, Result};

use super::options::Options;
use super::site::{BRIDGE, Site};
use super::{Bridge, NAME};
use crate::ipam;
use crate::netlink::{Netlink, link, route};
use crate::refuse::refuse;

/// That of Ethernet, where no route says more.
const MTU: u32 = 1500;
/// What a link must carry at the least (RFC 791, RFC 8200).
const LEAST_V4: u32 = 68;
const LEAST_V6: u32 = 1280;
/// The most that a veth and a bridge take (`ETH_MAX_MTU`).
const MOST: u32 = 65535;

pub(super) fn plan(driver: &Bridge, mut net: Network) -> Result<Network> {
    let options = Options::read(&net.options)?;
    refuse(NAME, net.internal && !driver.capabilities.internal.is_yes(), "internal")?;
    let mut netlink = Netlink::open()?;
    net.pools = pools(driver, net.pools)?;
    net.mtu = Some(mtu(&mut netlink, &net, options.mtu)?);
    net.interface = Some(interface(&net, options.name.as_deref())?);
    net.routes = routes(&net);
    net.binding = binding(options.binding.or(net.binding))?;
    net.options = options.recorded();
    refuse_anothers(&mut netlink, driver, &net)?;
    Ok(net)
}

/// In which families there is a way out.
fn routes(net: &Network) -> Families {
    let has = |family| !net.internal && net.pools.iter().any(|pool| pool.subnet.family() == family);
    Families { v4: has(Family::V4), v6: has(Family::V6) }
}

fn binding(wished: Option<Ipv4Addr>) -> Result<Option<Ipv4Addr>> {
    match wished {
        Some(address) if address.is_multicast() || address.is_broadcast() => Err(Error::Options(format!(
            "ports cannot be published at {address}, which is no host's; take one such as 127.0.0.1"
        ))),
        wished => Ok(wished.filter(|address| !address.is_unspecified())),
    }
}

fn pools(driver: &Bridge, pools: Vec<Pool>) -> Result<Vec<Pool>> {
    if pools.is_empty() {
        return Err(Error::Options("a bridge needs a subnet, such as 172.30.0.0/24".to_owned()));
    }
    for family in [Family::V4, Family::V6] {
        let mut ours = pools.iter().filter(|pool| pool.subnet.family() == family);
        if let (Some(one), Some(other)) = (ours.next(), ours.next()) {
            return Err(Error::Options(format!(
                "a bridge takes one {family} subnet; leave {} or {} out",
                one.subnet, other.subnet
            )));
        }
    }
    pools.into_iter().map(|pool| complete(driver, pool)).collect()
}

fn complete(driver: &Bridge, mut pool: Pool) -> Result<Pool> {
    let subnet = pool.subnet;
    refuse(NAME, subnet.family() == Family::V6 && !driver.capabilities.ipv6.is_yes(), "ipv6")?;
    if !is_for_hosts(subnet) {
        return Err(Error::Options(format!(
            "{subnet} is not for hosts that are routed to; take one such as 172.30.0.0/24 or fd00:30::/64"
        )));
    }
    pool.gateway = pool.gateway.or_else(|| ipam::router(&pool));
    let Some(gateway) = pool.gateway else {
        return Err(Error::Options(format!("{subnet} has no room for a gateway and a container")));
    };
    subnet.address(gateway)?;
    ipam::check_pool(&pool)?;
    Ok(pool)
}

fn is_for_hosts(subnet: Subnet) -> bool {
    match (subnet.first(), subnet.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let special = |ip: Ipv4Addr| {
                ip.octets()[0] == 0 || ip.is_loopback() || ip.is_link_local() || ip.octets()[0] >= 224
            };
            !special(first) && !special(last)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let special = |ip: Ipv6Addr| {
                ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_unicast_link_local()
                    || ip.to_ipv4_mapped().is_some()
            };
            !special(first) && !special(last)
        }
        _ => false,
    }
}

fn mtu(netlink: &mut Netlink, net: &Network, option: Option<u32>) -> Result<u32> {
    let has = |family: Family| net.pools.iter().any(|pool| pool.subnet.family() == family);
    let least = if has(Family::V6) { LEAST_V6 } else { LEAST_V4 };
    let wished = match (net.mtu, option) {
        (Some(one), Some(other)) if one != other => {
            return Err(Error::Options(format!(
                "the MTU cannot be both {one} and {other}; give one of them"
            )));
        }
        (one, other) => one.or(other),
    };
    match wished {
        None => Ok(route::default_mtu(netlink)?.unwrap_or(MTU).clamp(least, MOST)),
        Some(mtu) if (least..=MOST).contains(&mtu) => Ok(mtu),
        Some(mtu) => Err(Error::Options(format!(
            "an MTU of {mtu} does not carry these subnets; take one from {least} to {MOST}"
        ))),
    }
}

fn interface(net: &Network, option: Option<&str>) -> Result<InterfaceName> {
    let named = option.map(str::parse::<InterfaceName>).transpose()?;
    match (&net.interface, named) {
        (Some(one), Some(other)) if *one != other => Err(Error::Options(format!(
            "the bridge cannot be named both '{one}' and '{other}'; give one of them"
        ))),
        (one, other) => {
            Ok(one.clone().or(other).unwrap_or_else(|| InterfaceName::of_network(BRIDGE, &net.id)))
        }
    }
}

/// A name that something on the host has is taken, unless it is this very network's bridge.
fn refuse_anothers(netlink: &mut Netlink, driver: &Bridge, net: &Network) -> Result<()> {
    let site = Site::of(driver.owner, net)?;
    match link::by_name(netlink, site.bridge.as_str())? {
        Some(link) if !site.is(&link) => {
            let by = match link.mark() {
                Some(mark) if mark.owner == driver.owner => "another network",
                Some(_) => "another engine",
                None => "the host",
            };
            Err(Error::InUse { what: format!("interface '{}'", site.bridge), by: by.to_owned() })
        }
        _ => Ok(()),
    }
}
