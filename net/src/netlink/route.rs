//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{Address, Family, Subnet};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, Refused, Request};

/// A route to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Subnet,
    pub(crate) gateway: Option<IpAddr>,
    /// The index of the link out of which it leads; `None` where there are several.
    pub(crate) interface: Option<u32>,
    pub(crate) table: u32,
    /// The lower, the better.
    pub(crate) metric: u32,
    /// An MTU of its own.
    pub(crate) mtu: Option<u32>,
}

impl Route {
    /// It leads to everybody for whom there is no other one.
    pub(crate) fn is_default(&self) -> bool {
        self.destination.prefix() == 0 && self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }
}

/// The routes to other hosts of both families, of all tables.
pub(crate) fn routes(netlink: &mut Netlink) -> Result<Vec<Route>, Refused> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.kind = RouteType::Unicast;
        let found = netlink.dump(&RouteNetlinkMessage::GetRoute(message), "list the routes")?;
        routes.extend(found.into_iter().filter_map(|message| read(message, family)));
    }
    Ok(routes)
}

/// Makes the default route through this gateway.
pub(crate) fn add_default(index: u32, gateway: IpAddr) -> Request {
    let message = RouteNetlinkMessage::NewRoute(default_route(index, gateway));
    Request::create(message, format!("add the default route through {gateway}"))
}

/// Takes the default route through this gateway away.
pub(crate) fn remove_default(index: u32, gateway: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelRoute(default_route(index, gateway));
    Request::new(message, format!("delete the default route through {gateway}"))
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    match gateway {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).gateway(ip).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).gateway(ip).build(),
    }
}

fn read(message: RouteNetlinkMessage, family: AddressFamily) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else { return None };
    // A kernel without IPv6 answers a question about it with all that it has.
    if header.address_family != family || header.kind != RouteType::Unicast {
        return None;
    }
    let nowhere = match family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut route = Route {
        destination: Subnet::new(nowhere, 0).ok()?,
        gateway: None,
        interface: None,
        table: u32::from(header.table),
        metric: 0,
        mtu: None,
    };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(to) => {
                route.destination = Address::new(ip(&to)?, header.destination_prefix_length).ok()?.subnet();
            }
            RouteAttribute::Gateway(gateway) => route.gateway = ip(&gateway),
            RouteAttribute::Oif(index) => route.interface = Some(index),
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

/// The gateways of the default routes that lead out of this link.
pub(crate) fn gateways(netlink: &mut Netlink, index: u32) -> Result<Vec<IpAddr>, Refused> {
    let routes = routes(netlink)?.into_iter();
    let ours = routes.filter(|route| route.is_default() && route.interface == Some(index));
    Ok(ours.filter_map(|route| route.gateway).collect())
}

/// The MTU of the path to the world: the least of those of the default routes, which in each family is the one of the
/// lowest metric. `None` where there is no default route.
pub(crate) fn default_mtu(netlink: &mut Netlink) -> Result<Option<u32>, Refused> {
    let routes = routes(netlink)?;
    let mut least: Option<u32> = None;
    for family in [Family::V4, Family::V6] {
        let ours = routes.iter().filter(|route| route.is_default() && route.destination.family() == family);
        let Some(route) = ours.min_by_key(|route| route.metric) else { continue };
        let link = match route.interface {
            Some(index) => super::link::by_index(netlink, index)?.map(|link| link.mtu),
            None => None,
        };
        least = [least, route.mtu, link].into_iter().flatten().min();
    }
    Ok(least)
}
