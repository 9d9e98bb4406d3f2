//! An endpoint's life: attached, updated, detached.

use std::os::fd::{AsRawFd, BorrowedFd};

use mica_core::network::{Attachment, Endpoint, InterfaceName, Mark, Network, Scope};
use mica_core::{Error, Result, failpoint};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::io::Errno;

use super::place::{self, Place};
use super::site::Site;
use super::stand::undone;
use super::{Bridge, MAX_PORTS};
use crate::inside::{Inside, Wanted};
use crate::netlink::link::Link;
use crate::netlink::{Netlink, Refused, Request, link};

/// Below it the kernel speaks no IPv6 on a link, and takes no setting of it.
const IPV6_MTU: u32 = 1280;

pub(super) fn attach(
    driver: &Bridge,
    net: &Network,
    ep: &Endpoint,
    ns: BorrowedFd<'_>,
) -> Result<Attachment> {
    let site = Site::of(driver.owner, net)?;
    let place = Place::of(driver, &site, net, ep)?;
    driver.netlink.with_driver(|netlink| {
        let bridge = standing(netlink, &site)?;
        clear(netlink, &place)?;
        give_birth(driver, netlink, &site, &place, bridge, ns)?;
        let Err(error) = connect(driver, netlink, &site, &place, ns) else { return Ok(()) };
        let mut failures = Vec::new();
        let guarded = Some((&site.ground, &place.guarded));
        failures.extend(driver.firewall.release(&place.mark, guarded).err());
        failures.extend(cut(netlink, &place.veth, place.mark).err());
        Err(undone(error, failures))
    })?;
    Ok(place.attachment())
}

/// The index of the bridge, which is up. It is known by its hardware address, which follows from the network's id, and by its
/// mark where somebody changed that.
fn standing(netlink: &mut Netlink, site: &Site) -> Result<u32> {
    let index = link::index(netlink, site.bridge.as_str())?.ok_or_else(|| site.not_up())?;
    if link::is_up_with(netlink, &site.bridge, site.mac)? {
        return Ok(index);
    }
    let bridge = link::by_name(netlink, site.bridge.as_str())?;
    let ours = bridge.filter(|link| site.is(link) && link.up).ok_or_else(|| site.not_up())?;
    Ok(ours.index)
}

/// Fails where something has the name of the endpoint's port, but for what a detach left to the kernel.
fn clear(netlink: &mut Netlink, place: &Place) -> Result<()> {
    if link::index(netlink, place.veth.as_str())?.is_none() {
        return Ok(());
    }
    let what = match link::by_name(netlink, place.veth.as_str())? {
        None => return Ok(()),
        Some(veth) if veth.mark() != Some(place.mark) => format!("a foreign link '{}'", place.veth),
        Some(veth) if link::is_dying(netlink, &veth)? => return Ok(link::remove(netlink, &veth)?),
        Some(_) => format!("the endpoint's link '{}'", place.veth),
    };
    Err(Error::AlreadyExists { what })
}

/// The pair of links, the inner one in the container's namespace, both down. The kernel does both of one message to
/// it before anything can end the process, so none is left unmarked.
fn give_birth(
    driver: &Bridge,
    netlink: &mut Netlink,
    site: &Site,
    place: &Place,
    bridge: u32,
    ns: BorrowedFd<'_>,
) -> Result<()> {
    let answers = netlink.ask(vec![
        Request::create(
            RouteNetlinkMessage::NewLink(pair(site, place, bridge, ns)),
            format!("make the links '{}' and '{}'", place.veth, place.wanted.name),
        ),
        link::change(port(driver, site, place), &place.veth),
    ])?;
    let mut answers = answers.into_iter();
    if let Some(Err(refused)) = answers.next() {
        return Err(unborn(refused, site, place));
    }
    match answers.next() {
        Some(Err(refused)) => {
            // It bears no mark, but this call made it.
            let made = link::by_name(netlink, place.veth.as_str());
            let left = made.and_then(|made| made.map_or(Ok(()), |made| link::remove(netlink, &made))).err();
            Err(undone(refused.into(), left.into_iter().map(Error::from).collect()))
        }
        _ => Ok(()),
    }
}

fn unborn(refused: Refused, site: &Site, place: &Place) -> Error {
    match refused.errno {
        Errno::EXIST => {
            Error::AlreadyExists { what: format!("interface '{}' in the container", place.wanted.name) }
        }
        Errno::XFULL => {
            Error::Full { what: format!("bridge '{}'", site.bridge), limit: format!("{MAX_PORTS} endpoints") }
        }
        _ => refused.into(),
    }
}

/// One queue each: the kernel's default is one for each processor that could be there, and costs a third of the time.
fn pair(site: &Site, place: &Place, bridge: u32, ns: BorrowedFd<'_>) -> LinkMessage {
    let Wanted { name, mac, .. } = &place.wanted;
    let peer = LinkUnspec::new_with_name(name.as_str())
        .address(mac.octets().to_vec())
        .mtu(site.mtu)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        .setns_by_fd(ns.as_raw_fd())
        .build();
    LinkVeth::new(place.veth.as_str(), name.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(site.mtu)
        .controller(bridge)
        .append_extra_attribute(LinkAttribute::NumTxQueues(1))
        .append_extra_attribute(LinkAttribute::NumRxQueues(1))
        .build()
}

/// The mark and the flags of the port, which the kernel takes for a link that is there only. A port that sends
/// frames back where they came from lets a container reach itself at the host's address.
fn port(driver: &Bridge, site: &Site, place: &Place) -> LinkMessage {
    let flags = vec![
        InfoBridgePort::HairpinMode(driver.firewall.shields()),
        InfoBridgePort::Isolated(!site.ground.icc),
    ];
    let message = LinkUnspec::new_with_name(place.veth.as_str())
        .alias(place.mark.to_string())
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(flags));
    if !driver.capabilities.ipv6.is_yes() || site.mtu < IPV6_MTU {
        return message.build();
    }
    let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let no_address = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![no_address])]);
    message.append_extra_attribute(no_address).build()
}

/// Everything after the links' birth. The port is set up last, so until all guards stand no packet goes either way.
fn connect(
    driver: &Bridge,
    netlink: &mut Netlink,
    site: &Site,
    place: &Place,
    ns: BorrowedFd<'_>,
) -> Result<()> {
    let hit = |point| failpoint::hit(point).map_err(Error::io(|| "attach an endpoint"));
    hit("bridge.attach.born")?;
    let mut inside = Inside::configure(ns, &place.wanted)?;
    hit("bridge.attach.inside")?;
    driver.firewall.guard(&site.ground, &place.guarded)?;
    hit("bridge.attach.guarded")?;
    let port = LinkUnspec::new_with_name(place.veth.as_str()).up().build();
    netlink.tell(vec![link::change(port, &place.veth)])?;
    link::settle(netlink, &place.veth)?;
    link::settle(netlink, &site.bridge)?;
    inside.announce(&place.wanted)
}

pub(super) fn update(
    driver: &Bridge,
    net: &Network,
    was: &Attachment,
    ep: &Endpoint,
    ns: BorrowedFd<'_>,
) -> Result<Attachment> {
    let site = Site::of(driver.owner, net)?;
    let place = Place::of(driver, &site, net, ep)?;
    let gone = || Error::NotFound { what: format!("the endpoint's link '{}'", place.veth) };
    let rerouted = was.gateways != place.wanted.gateways;
    driver.netlink.with_driver(|netlink| {
        if was.ports != ep.ports && !rerouted {
            // Where a port leads the firewall alone decides. What else is amiss is mended by an update to what `was` says.
            link::index(netlink, place.veth.as_str())?.ok_or_else(gone)?;
            return refuse_other_changes(was, &place);
        }
        let veth = link::by_name(netlink, place.veth.as_str())?;
        let veth = veth.filter(|veth| veth.mark() == Some(place.mark)).ok_or_else(gone)?;
        refuse_other_changes(was, &place)?;
        mend(driver, netlink, &site, &place, &veth)
    })?;
    let publish = || driver.firewall.publish(&site.ground, &place.guarded_before(was), &place.guarded);
    if !rerouted {
        publish()?;
        return Ok(place.attachment());
    }
    let mut inside = Inside::find(ns, &place.wanted.name)?.ok_or_else(gone)?;
    inside.reroute(&was.gateways, &place.wanted.gateways)?;
    if let Err(error) = publish() {
        let failure = inside.reroute(&place.wanted.gateways, &was.gateways).err();
        return Err(undone(error, failure.into_iter().collect()));
    }
    Ok(place.attachment())
}

/// Makes the link a port of the bridge again, where somebody took it away from there or the bridge was made anew.
fn mend(driver: &Bridge, netlink: &mut Netlink, site: &Site, place: &Place, veth: &Link) -> Result<()> {
    let isolated = InfoBridgePort::Isolated(!site.ground.icc);
    let is_port = veth.master.is_some() && veth.master == link::index(netlink, site.bridge.as_str())?;
    if veth.up && is_port && veth.port.contains(&isolated) {
        return Ok(());
    }
    let bridge = standing(netlink, site)?;
    let change = |message: LinkMessageBuilder<LinkUnspec>| link::change(message.build(), &place.veth);
    let named = || LinkUnspec::new_with_name(place.veth.as_str());
    Ok(netlink.tell(vec![
        change(named().controller(bridge)),
        link::change(port(driver, site, place), &place.veth),
        change(named().up()),
    ])?)
}

fn refuse_other_changes(was: &Attachment, place: &Place) -> Result<()> {
    let Wanted { name, mac, addresses, .. } = &place.wanted;
    let same = was
        .interface
        .as_ref()
        .is_some_and(|was| was.name == *name && was.mac == *mac && was.addresses == *addresses);
    if same {
        return Ok(());
    }
    Err(Error::Options(
        "a live endpoint changes its ports and its gateway only; disconnect and connect it for the rest"
            .to_owned(),
    ))
}

pub(super) fn detach(driver: &Bridge, net: &Network, ep: &Endpoint, was: Option<&Attachment>) -> Result<()> {
    let mark = Mark { owner: driver.owner, scope: Scope::Endpoint(net.id, ep.id) };
    let mut failures = Vec::new();
    failures.extend(release(driver, net, ep, was, mark).err());
    let veth = place::veth(&ep.id);
    failures.extend(driver.netlink.with_driver(|netlink| cut(netlink, &veth, mark)).err());
    Error::unless_complete(format!("endpoint '{}'", ep.id), failures)
}

/// Where the record and the attachment say the same, only that was ever published; else an update may have died
/// half-way.
fn release(
    driver: &Bridge,
    net: &Network,
    ep: &Endpoint,
    was: Option<&Attachment>,
    mark: Mark,
) -> Result<()> {
    let known = was.filter(|was| was.ports == ep.ports).and_then(|was| {
        let site = Site::of(driver.owner, net).ok()?;
        let place = Place::of(driver, &site, net, ep).ok()?;
        (place.wanted.gateways == was.gateways).then_some((site.ground, place.guarded))
    });
    driver.firewall.release(&mark, known.as_ref().map(|(ground, guarded)| (ground, guarded)))
}

/// Deletes the pair, where it is this endpoint's and the kernel is not about to.
fn cut(netlink: &mut Netlink, veth: &InterfaceName, mark: Mark) -> Result<()> {
    match link::by_name(netlink, veth.as_str())? {
        Some(link) if link.mark() == Some(mark) && !link::is_dying(netlink, &link)? => {
            Ok(link::remove(netlink, &link)?)
        }
        _ => Ok(()),
    }
}
