//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::Address;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::AddressMessageBuilder;
use rustix::io::Errno;

use super::{Netlink, Refused, Request};

/// Gives a link an address. One of IPv6 is used at once: whoever leases addresses knows that nobody else has it, so
/// the kernel need not ask around for a second.
pub(crate) fn add(index: u32, address: Address) -> Request {
    let message = match address.ip() {
        IpAddr::V4(ip) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(ip, address.prefix()).build()
        }
        IpAddr::V6(ip) => {
            let builder = AddressMessageBuilder::<Ipv6Addr>::new();
            let mut message = builder.index(index).address(ip, address.prefix()).build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    Request::create(RouteNetlinkMessage::NewAddress(message), format!("add address {address}"))
}

/// The addresses of one link. None for a link that is gone.
pub(crate) fn of_link(netlink: &mut Netlink, index: u32) -> Result<Vec<Address>, Refused> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    match netlink.dump(&RouteNetlinkMessage::GetAddress(message), "list the addresses of a link") {
        Ok(found) => Ok(found.into_iter().filter_map(read).map(|(_, address)| address).collect()),
        Err(refused) if refused.errno == Errno::NODEV => Ok(Vec::new()),
        Err(refused) => Err(refused),
    }
}

/// Every address of the namespace, with the index of its link.
pub(crate) fn all(netlink: &mut Netlink) -> Result<Vec<(u32, Address)>, Refused> {
    let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    Ok(netlink.dump(&message, "list the addresses")?.into_iter().filter_map(read).collect())
}

fn read(message: RouteNetlinkMessage) -> Option<(u32, Address)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let mut ip = None;
    for attribute in &message.attributes {
        match *attribute {
            // Of a point-to-point link `Address` is the other end's.
            AddressAttribute::Local(local) => {
                ip = Some(local);
                break;
            }
            AddressAttribute::Address(address) => ip = Some(address),
            _ => {}
        }
    }
    Some((message.header.index, Address::new(ip?, message.header.prefix_len).ok()?))
}
