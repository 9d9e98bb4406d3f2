//! Links: the interfaces of a namespace.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use mica_core::network::{InterfaceName, Mac, Mark};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoKind, InfoPortData, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use rustix::io::Errno;

use super::{Netlink, Refused, Request};
use crate::sys;

/// How long a carrier is waited for, in milliseconds: the kernel looks at those that are not urgent once a second.
const SETTLING: u32 = 1100;

/// What is known of a link.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What it is, where it is virtual.
    pub(crate) kind: Option<InfoKind>,
    pub(crate) alias: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) group: u32,
    /// It was set up; it may lack a carrier.
    pub(crate) up: bool,
    /// The bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// What it is set to as the port of a bridge.
    pub(crate) port: Vec<InfoBridgePort>,
    /// The number, here, of the namespace that the other end of a pair is in, where it is another one; negative for one that
    /// has none any more.
    pub(crate) peer: Option<i32>,
}

impl Link {
    /// The mark that it bears; `None` for a link that somebody else made.
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.alias.as_deref()?.parse().ok()
    }

    fn read(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer = Some(id),
                LinkAttribute::Address(bytes) => {
                    link.mac = bytes.try_into().ok().and_then(|bytes| Mac::new(bytes).ok());
                }
                LinkAttribute::LinkInfo(infos) => link.learn(infos),
                _ => {}
            }
        }
        link
    }

    fn learn(&mut self, infos: Vec<LinkInfo>) {
        for info in infos {
            match info {
                LinkInfo::Kind(kind) => self.kind = Some(kind),
                LinkInfo::PortData(InfoPortData::BridgePort(port)) => self.port = port,
                _ => {}
            }
        }
    }
}

/// Every link of the namespace.
pub(crate) fn links(netlink: &mut Netlink) -> Result<Vec<Link>, Refused> {
    let message = LinkUnspec::new_with_index(0).append_extra_attribute(terse()).build();
    let found = netlink.dump(&RouteNetlinkMessage::GetLink(message), "list the links")?;
    Ok(found.into_iter().filter_map(read).collect())
}

/// The link of this name.
pub(crate) fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, Refused> {
    found(netlink.look(request_by_name(name)))
}

/// The link of this index.
pub(crate) fn by_index(netlink: &mut Netlink, index: u32) -> Result<Option<Link>, Refused> {
    found(netlink.look(request_by_index(index)))
}

/// The index of the link of this name, which costs next to nothing: the lock of all links is not taken.
pub(crate) fn index(netlink: &Netlink, name: &str) -> Result<Option<u32>, Refused> {
    match rustix::net::netdevice::name_to_index(netlink, name) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(Refused { doing: format!("look for link '{name}'"), errno, hint: None }),
    }
}

/// Whether nobody uses the namespace of the other end any more, so that the kernel is about to clear the pair away. (To delete
/// it oneself takes some 20 ms, and no less when the namespace was closed before.)
pub(crate) fn is_dying(netlink: &mut Netlink, link: &Link) -> Result<bool, Refused> {
    let Some(id) = link.peer else { return Ok(false) };
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Id(id)];
    let doing = format!("look at the other end of link '{}'", link.name);
    // The kernel finds a namespace by its number as long as somebody uses it (`get_net_ns_by_id`).
    match netlink.look(Request::new(RouteNetlinkMessage::GetNsId(message), doing)) {
        Err(refused) if refused.errno == Errno::NOENT => Ok(true),
        Err(refused) => Err(refused),
        Ok(_) => Ok(false),
    }
}

/// Asks for a link by its name; [`found`] reads the answer.
pub(crate) fn request_by_name(name: &str) -> Request {
    let builder: LinkMessageBuilder<LinkUnspec> = LinkUnspec::new_with_name(name);
    let message = builder.append_extra_attribute(terse()).build();
    Request::new(RouteNetlinkMessage::GetLink(message), format!("look at link '{name}'"))
}

/// Whether the link of this name is up and has this hardware address, which costs next to nothing, too.
pub(crate) fn is_up_with(netlink: &Netlink, name: &InterfaceName, mac: Mac) -> Result<bool, Refused> {
    let look = || -> io::Result<bool> {
        let up = sys::flags(netlink.as_fd(), name)? & libc::IFF_UP != 0;
        Ok(up && sys::hardware_address(netlink.as_fd(), name)? == mac.octets())
    };
    match look() {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        looked => looked.map_err(|error| Refused::io(&format!("look at link '{name}'"), &error)),
    }
}

/// Whether the kernel has taken note that a link is up and has a carrier: what it sends is heard, and where it is the port of a
/// bridge, the bridge passes it on.
pub(super) fn is_running(netlink: &Netlink, name: &InterfaceName) -> io::Result<bool> {
    Ok(sys::flags(netlink.as_fd(), name)? & libc::IFF_RUNNING != 0)
}

/// Lets the kernel finish what is under way with the link's carrier, so that from then on it passes packets. To ask for the
/// carrier makes it do so; before Linux 6.8 it is waited for, which takes a second at most.
pub(crate) fn settle(netlink: &Netlink, name: &InterfaceName) -> Result<(), Refused> {
    let settled = sys::has_carrier(netlink.as_fd(), name).and_then(|has_carrier| {
        let mut waits = if has_carrier { SETTLING } else { 0 };
        while waits > 0 && !is_running(netlink, name)? {
            thread::sleep(Duration::from_millis(1));
            waits -= 1;
        }
        Ok(())
    });
    settled.map_err(|error| Refused::io(&format!("look at the carrier of link '{name}'"), &error))
}

fn request_by_index(index: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).append_extra_attribute(terse()).build();
    Request::new(RouteNetlinkMessage::GetLink(message), format!("look at link {index}"))
}

/// The link in the answer to a question for one; `None` where there is none.
pub(crate) fn found(answer: super::Answer) -> Result<Option<Link>, Refused> {
    match answer {
        Ok(messages) => Ok(messages.into_iter().find_map(read)),
        Err(refused) if refused.errno == Errno::NODEV => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// Deletes a link, and with it the other end of a pair.
pub(crate) fn remove(netlink: &mut Netlink, link: &Link) -> Result<(), Refused> {
    let message = LinkUnspec::new_with_index(link.index).build();
    let doing = format!("delete link '{}'", link.name);
    match netlink.tell(vec![Request::new(RouteNetlinkMessage::DelLink(message), doing)]) {
        Err(refused) if refused.errno == Errno::NODEV => Ok(()),
        done => done,
    }
}

/// Changes a link that is there.
pub(crate) fn change(message: LinkMessage, name: &InterfaceName) -> Request {
    Request::new(RouteNetlinkMessage::NewLink(message), format!("set up link '{name}'"))
}

/// Leaves the counters out of the answer.
fn terse() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn read(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
        _ => None,
    }
}
