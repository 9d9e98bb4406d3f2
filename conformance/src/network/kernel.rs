//! What there is in the kernel, and changes to it, by route netlink. Everything is about the network namespace of the calling
//! thread.

mod exchange;
pub mod rules;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use mica_core::network::{Address, Family, Mac, Mark, Subnet};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use nix::errno::Errno;

use exchange::{dump, request};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its alias, empty where it has none.
    pub alias: String,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it was set up.
    pub is_up: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether the bridge passes its frames on: some time after both ends of a pair are up.
    pub forwards: bool,
}

impl Link {
    /// The mark in its alias.
    pub fn mark(&self) -> Option<Mark> {
        self.alias.parse().ok()
    }
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub to: Subnet,
    /// By whom; `None` for what is reached directly.
    pub gateway: Option<IpAddr>,
    /// Out of which link.
    pub link: Option<u32>,
}

/// Every link.
pub fn links() -> io::Result<Vec<Link>> {
    Ok(dump(Message::GetLink(LinkMessage::default()))?.into_iter().filter_map(read_link).collect())
}

/// The link of this name.
pub fn link(name: &str) -> io::Result<Option<Link>> {
    let wanted = message(vec![LinkAttribute::IfName(name.to_owned())]);
    match request(Message::GetLink(wanted), 0) {
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        answers => Ok(answers?.into_iter().find_map(read_link)),
    }
}

fn read_link(answer: Message) -> Option<Link> {
    match answer {
        Message::NewLink(message) => Some(link_of(message)),
        _ => None,
    }
}

fn index(name: &str) -> io::Result<u32> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no link '{name}'"));
    link(name)?.map(|link| link.index).ok_or_else(missing)
}

fn link_of(message: LinkMessage) -> Link {
    let is_up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, is_up, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(info) => link.forwards = info.iter().any(is_forwarding),
            _ => {}
        }
    }
    link
}

fn is_forwarding(info: &LinkInfo) -> bool {
    let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info else { return false };
    port.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
}

/// The addresses of a link, or of all links.
pub fn addresses(of: Option<&str>) -> io::Result<Vec<Address>> {
    let wanted = of.map(index).transpose()?;
    let found = addresses_of_links()?.into_iter();
    Ok(found.filter(|(link, _)| wanted.is_none_or(|index| index == *link)).map(|(_, found)| found).collect())
}

/// Every address, with the number of the link that has it.
pub fn addresses_of_links() -> io::Result<Vec<(u32, Address)>> {
    let mut found = Vec::new();
    for answer in dump(Message::GetAddress(AddressMessage::default()))? {
        let Message::NewAddress(message) = answer else { continue };
        // Of the two ends of a point-to-point link `Local` is this one; else both are the same, or it is missing.
        let local = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        let address = local.or(any).map(|ip| Address::new(ip, message.header.prefix_len));
        let address = address.transpose().map_err(io::Error::other)?;
        found.extend(address.map(|address| (message.header.index, address)));
    }
    Ok(found)
}

/// The unicast routes of the main table.
pub fn routes() -> io::Result<Vec<Route>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        for answer in dump(Message::GetRoute(wanted))? {
            if let Message::NewRoute(message) = answer {
                found.extend(route_of(&message)?);
            }
        }
    }
    Ok(found)
}

fn route_of(message: &RouteMessage) -> io::Result<Option<Route>> {
    let RouteHeader { table, kind, destination_prefix_length: prefix, .. } = message.header;
    if table != RouteHeader::RT_TABLE_MAIN || kind != RouteType::Unicast {
        return Ok(None);
    }
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        _ => [0; 16].into(),
    };
    let (mut first, mut gateway, mut link) = (unspecified, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => first = ip(to).unwrap_or(unspecified),
            RouteAttribute::Gateway(by) => gateway = ip(by),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let to = Subnet::new(first, prefix).map_err(io::Error::other)?;
    Ok(Some(Route { to, gateway, link }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// Makes a bridge, which is down.
pub fn add_bridge(name: &str) -> io::Result<()> {
    let attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    request(Message::NewLink(message(attributes)), NEW).map(drop)
}

/// What the end of a veth is born with beside its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Birth {
    /// Its hardware address; else a random one.
    pub mac: Option<Mac>,
    /// Its MTU; else Ethernet's.
    pub mtu: Option<u32>,
}

/// Makes a veth whose other end is born in another namespace. Both ends are down.
pub fn add_veth(name: &str, peer: &str, birth: Birth, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let mut inner =
        vec![LinkAttribute::IfName(peer.to_owned()), LinkAttribute::NetNsFd(namespace.as_raw_fd())];
    let mut outer = vec![LinkAttribute::IfName(name.to_owned())];
    inner.extend(birth.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    for end in [&mut inner, &mut outer] {
        end.extend(birth.mtu.map(LinkAttribute::Mtu));
    }
    let data = InfoData::Veth(InfoVeth::Peer(message(inner)));
    outer.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]));
    request(Message::NewLink(message(outer)), NEW).map(drop)
}

fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    message
}

fn about(name: &str, attributes: Vec<LinkAttribute>) -> io::Result<LinkMessage> {
    let mut message = message(attributes);
    message.header.index = index(name)?;
    Ok(message)
}

/// Removes a link.
pub fn remove_link(name: &str) -> io::Result<()> {
    request(Message::DelLink(about(name, Vec::new())?), 0).map(drop)
}

/// Sets a link up, or down.
pub fn set_up(name: &str, up: bool) -> io::Result<()> {
    let mut message = about(name, Vec::new())?;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    request(Message::SetLink(message), 0).map(drop)
}

/// Writes a text on a link.
pub fn set_alias(name: &str, alias: &str) -> io::Result<()> {
    change(name, LinkAttribute::IfAlias(alias.to_owned()))
}

/// Gives a link another hardware address.
pub fn set_mac(name: &str, mac: Mac) -> io::Result<()> {
    change(name, LinkAttribute::Address(mac.octets().to_vec()))
}

/// Gives a link another MTU.
pub fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    change(name, LinkAttribute::Mtu(mtu))
}

/// Makes a link a port of a bridge.
pub fn set_master(name: &str, bridge: &str) -> io::Result<()> {
    change(name, LinkAttribute::Controller(index(bridge)?))
}

fn change(name: &str, attribute: LinkAttribute) -> io::Result<()> {
    request(Message::SetLink(about(name, vec![attribute])?), 0).map(drop)
}

/// Gives a link an address, usable at once.
pub fn add_address(name: &str, address: Address) -> io::Result<()> {
    request(Message::NewAddress(address_message(name, address)?), NEW).map(drop)
}

/// Takes an address from a link.
pub fn remove_address(name: &str, address: Address) -> io::Result<()> {
    request(Message::DelAddress(address_message(name, address)?), 0).map(drop)
}

fn address_message(name: &str, address: Address) -> io::Result<AddressMessage> {
    let mut message = AddressMessage::default();
    message.header.family = kernels(Family::of(address.ip()));
    message.header.prefix_len = address.prefix();
    message.header.index = index(name)?;
    if Family::of(address.ip()) == Family::V6 {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![AddressAttribute::Address(address.ip()), AddressAttribute::Local(address.ip())];
    Ok(message)
}

/// Adds a route by a gateway.
pub fn add_route(to: Subnet, gateway: IpAddr) -> io::Result<()> {
    request(Message::NewRoute(route_message(to, gateway)), NEW).map(drop)
}

/// Removes a route by a gateway.
pub fn remove_route(to: Subnet, gateway: IpAddr) -> io::Result<()> {
    request(Message::DelRoute(route_message(to, gateway)), 0).map(drop)
}

fn route_message(to: Subnet, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = kernels(to.family());
    message.header.destination_prefix_length = to.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(to.first().into()), RouteAttribute::Gateway(gateway.into())];
    message
}

fn kernels(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
