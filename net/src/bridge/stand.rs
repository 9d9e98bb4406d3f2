//! Making a network stand, and taking it away.

use mica_core::network::{Address, Mark, Network, Raised, Scope};
use mica_core::{Error, Result, failpoint};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::Bridge;
use super::site::Site;
use crate::ipam::{Taken, taken_by_host};
use crate::netlink::link::Link;
use crate::netlink::{Netlink, Request, address, link};
use crate::setting;

pub(super) fn up(driver: &Bridge, net: &Network) -> Result<Raised> {
    let site = Site::of(driver.owner, net)?;
    let _alone = driver.lock()?;
    let mut netlink = Netlink::open()?;
    let made = match link::by_name(&mut netlink, site.bridge.as_str())? {
        Some(link) if site.is(&link) => false,
        Some(_) => {
            let what = format!("an interface '{}' that is not this network's", site.bridge);
            return Err(Error::AlreadyExists { what });
        }
        None => {
            refuse_anothers_subnet(net)?;
            make(&mut netlink, &site)?;
            true
        }
    };
    let raised = raise(driver, &mut netlink, &site);
    match raised {
        Err(error) if made => Err(undone(error, take_away(driver, &mut netlink, net))),
        raised => raised.map(|raised| Raised { rebuilt: raised.rebuilt || made, ..raised }),
    }
}

pub(super) fn down(driver: &Bridge, net: &Network) -> Result<()> {
    let _alone = driver.lock()?;
    let failures = take_away(driver, &mut Netlink::open()?, net);
    Error::unless_complete(format!("network '{}'", net.name), failures)
}

/// Where two links have one subnet the host answers at one of them alone. It may have come since the network was planned.
fn refuse_anothers_subnet(net: &Network) -> Result<()> {
    let mut taken = taken_by_host()?.into_iter();
    match taken.find(|taken| net.pools.iter().any(|pool| pool.subnet == taken.subnet)) {
        Some(Taken { subnet, by }) => Err(Error::InUse { what: format!("subnet {subnet}"), by }),
        None => Ok(()),
    }
}

/// The bridge with its mark. The kernel does both of one message to it before anything can end the process, so none
/// is left unmarked.
fn make(netlink: &mut Netlink, site: &Site) -> Result<()> {
    let name = site.bridge.as_str();
    let bridge = LinkMessageBuilder::<LinkBridge>::new(name);
    let bridge = bridge.mtu(site.mtu).address(site.mac.octets().to_vec()).forward_delay(0).build();
    let marked = LinkUnspec::new_with_name(name).alias(site.mark.to_string());
    let marked = marked.append_extra_attribute(LinkAttribute::Group(site.group)).build();
    Ok(netlink.tell(vec![
        Request::create(RouteNetlinkMessage::NewLink(bridge), format!("make bridge '{name}'")),
        link::change(marked, &site.bridge),
    ])?)
}

/// What is missing of the rest.
fn raise(driver: &Bridge, netlink: &mut Netlink, site: &Site) -> Result<Raised> {
    failpoint::hit("bridge.up.made").map_err(Error::io(|| "make a bridge"))?;
    let link = link::by_name(netlink, site.bridge.as_str())?.ok_or_else(|| site.not_up())?;
    for (setting, value) in site.settings() {
        setting::ensure(&setting, value)?;
    }
    equip(netlink, site, &link)?;
    let rebuilt = driver.firewall.raise(&site.ground)?;
    failpoint::hit("bridge.up.raised").map_err(Error::io(|| "raise a firewall"))?;
    if !driver.firewall.shields() {
        // What forwarding would open nothing of ours could close: it is left to whoever wants no firewall of ours.
        return Ok(Raised { host: Vec::new(), rebuilt });
    }
    let (setting, value) = site.route_localnet();
    setting::ensure(&setting, value)?;
    if let Some(reason) = driver.firewall.forbidden(&site.ground)? {
        return Err(Error::Unavailable { reason });
    }
    Ok(Raised { host: driver.host.forward(site.routes, &*driver.firewall)?, rebuilt })
}

fn equip(netlink: &mut Netlink, site: &Site, link: &Link) -> Result<()> {
    let has = address::of_link(netlink, link.index)?;
    let lacks = |address: &&Address| !has.contains(address);
    let mut requests: Vec<_> =
        site.gateways.iter().filter(lacks).map(|&one| address::add(link.index, one)).collect();
    if !link.up || link.mtu != site.mtu || link.group != site.group {
        let message = LinkUnspec::new_with_index(link.index).mtu(site.mtu).up();
        let message = message.append_extra_attribute(LinkAttribute::Group(site.group)).build();
        requests.push(link::change(message, &site.bridge));
    }
    Ok(netlink.tell(requests)?)
}

/// The rules and the bridge, found by their mark. Answers what failed.
fn take_away(driver: &Bridge, netlink: &mut Netlink, net: &Network) -> Vec<Error> {
    let mut failures = Vec::new();
    failures.extend(driver.firewall.lower(net.id).err());
    let mark = Mark { owner: driver.owner, scope: Scope::Network(net.id) };
    match link::links(netlink) {
        Err(refused) => failures.push(refused.into()),
        Ok(links) => {
            let ours =
                links.iter().filter(|link| link.kind == Some(InfoKind::Bridge) && link.mark() == Some(mark));
            failures.extend(ours.filter_map(|link| link::remove(netlink, link).err().map(Error::from)));
        }
    }
    failures
}

/// What a call answers that failed and undid its work: why, and what is left where that failed, too.
pub(super) fn undone(error: Error, failures: Vec<Error>) -> Error {
    if failures.is_empty() {
        return error;
    }
    let failures = std::iter::once(error).chain(failures).collect();
    Error::Incomplete { what: "what failed half-way".to_owned(), failures }
}
