//! What is in the kernel, against what should be.

use std::os::fd::BorrowedFd;

use mica_core::network::{Attachment, Endpoint, Network};
use mica_core::{Error, Result};
use netlink_packet_route::link::InfoBridgePort;

use super::Bridge;
use super::place::Place;
use super::site::Site;
use crate::inside::Inside;
use crate::netlink::{Netlink, address, link};
use crate::setting;

pub(super) fn check(
    driver: &Bridge,
    net: &Network,
    ep: &Endpoint,
    was: &Attachment,
    ns: BorrowedFd<'_>,
) -> Result<()> {
    let site = Site::of(driver.owner, net)?;
    let mut place = Place::of(driver, &site, net, ep)?;
    place.wanted.gateways.clone_from(&was.gateways);
    let mut netlink = Netlink::open()?;
    let mut faults = Vec::new();
    let bridge = of_bridge(&mut netlink, &site, &mut faults)?;
    of_settings(driver, &site, &mut faults)?;
    of_port(&mut netlink, &site, &place, bridge, &mut faults)?;
    match Inside::find(ns, &place.wanted.name)? {
        Some(mut inside) => faults.extend(inside.faults(&place.wanted)?),
        None => faults.push(format!(
            "interface '{}' in the container is gone, which a restart of the container mends",
            place.wanted.name
        )),
    }
    faults.extend(driver.firewall.missing(&site.ground, Some(&place.guarded))?);
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Corrupt { what: format!("endpoint '{}'", ep.id), reason: faults.join("; ") })
}

/// Answers the bridge's index.
fn of_bridge(netlink: &mut Netlink, site: &Site, faults: &mut Vec<String>) -> Result<Option<u32>> {
    let name = &site.bridge;
    let link = link::by_name(netlink, name.as_str())?;
    let Some(link) = link.filter(|link| site.is(link)) else {
        faults.push(format!("bridge '{name}' is gone"));
        return Ok(None);
    };
    if !link.up {
        faults.push(format!("bridge '{name}' is down"));
    }
    if link.mtu != site.mtu {
        faults.push(format!("bridge '{name}' has MTU {}, not {}", link.mtu, site.mtu));
    }
    if link.group != site.group {
        faults.push(format!("bridge '{name}' is in link group {}, not {}", link.group, site.group));
    }
    let addresses = address::of_link(netlink, link.index)?;
    let lost = site.gateways.iter().filter(|address| !addresses.contains(address));
    faults.extend(lost.map(|address| format!("bridge '{name}' lacks {address}")));
    Ok(Some(link.index))
}

fn of_settings(driver: &Bridge, site: &Site, faults: &mut Vec<String>) -> Result<()> {
    let mut wanted = site.settings().to_vec();
    if driver.firewall.shields() {
        wanted.push(site.route_localnet());
        let forwards = [("ipv4/ip_forward", site.routes.v4), ("ipv6/conf/all/forwarding", site.routes.v6)];
        wanted.extend(forwards.iter().filter(|(_, on)| *on).map(|(name, _)| ((*name).to_owned(), "1")));
    }
    for (name, value) in wanted {
        if let Some(now) = setting::read(&name)?.filter(|now| now != value) {
            faults.push(format!("net/{name} is {now}, not {value}"));
        }
    }
    Ok(())
}

fn of_port(
    netlink: &mut Netlink,
    site: &Site,
    place: &Place,
    bridge: Option<u32>,
    faults: &mut Vec<String>,
) -> Result<()> {
    let name = &place.veth;
    let link = link::by_name(netlink, name.as_str())?;
    let Some(link) = link.filter(|link| link.mark() == Some(place.mark)) else {
        faults.push(format!("link '{name}' is gone, which a restart of the container mends"));
        return Ok(());
    };
    if !link.up {
        faults.push(format!("link '{name}' is down"));
    }
    if link.master.is_none() || link.master != bridge {
        faults.push(format!("link '{name}' is no port of bridge '{}'", site.bridge));
    } else if !link.port.contains(&InfoBridgePort::Isolated(!site.ground.icc)) {
        let is = if site.ground.icc { "is isolated" } else { "is not isolated" };
        faults.push(format!("link '{name}' {is} from the other containers"));
    }
    Ok(())
}
