//! What a container has when `attach` returns.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use mica_core::network::{Address, Families, Family, Mac, Subnet};

use super::lifecycle::way;
use super::list;
use crate::network::case::nothing;
use crate::network::kernel::{self, Link, Route};
use crate::network::snapshot::{Snapshot, setting};
use crate::network::stage::{V4_DEFAULT, V6_DEFAULT, nth, subnet};
use crate::network::{Namespace, Placed, Stage};
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};

list! {
    "attach-without-addresses" without_addresses =
        "a driver without addresses leaves the container with lo alone, and answers Unsupported for each wish",
        Addresses else only_lo;
    "attach-makes-the-interface" makes_the_interface =
        "the interface has the name, the addresses and the MTU that were asked for, and is up; the attachment says so",
        Addresses else nothing;
    "attach-connects" connects =
        "endpoints of one network reach each other as soon as attach returns",
        Addresses else nothing;
    "attach-default-route" default_route =
        "the default route is there where the network is the gateway, and only there",
        Addresses else nothing;
    "attach-mac" mac =
        "an interface gets the hardware address that was wished for, else one of the endpoint's id",
        Mac else refuses_mac;
    "attach-mtu" mtu =
        "an interface has the MTU of its network",
        Addresses else nothing;
    "attach-long-name" long_name =
        "an interface may have a name of 15 bytes",
        Addresses else nothing;
    "attach-link-local-address" link_local =
        "link-local addresses have 16 bits in IPv4",
        GivenAddresses else nothing;
    "attach-heeds-no-advertisement" no_advertisement =
        "the inner interface heeds no router advertisement",
        Addresses else nothing;
    "attach-another-root" another_root =
        "a namespace that belongs to a user namespace is attached to, checked, updated and detached from like any other",
        Addresses else nothing;
    "attach-to-two-networks" two_networks =
        "a container is in several networks at once, and has one default route a family",
        Addresses else nothing;
    "attach-name-taken" name_taken =
        "an interface name that the container has already answers AlreadyExists and leaves nothing",
        Addresses else nothing;
    "attach-twice" twice =
        "an endpoint that is attached answers AlreadyExists, and goes on working",
        Addresses else nothing;
    "attach-network-not-up" not_up =
        "a network that is not up answers NotFound, and nothing is left",
        Addresses else nothing;
    "attach-address-from-elsewhere" from_elsewhere =
        "an address that is not in the network answers Options, and nothing is left",
        GivenAddresses else nothing;
}

fn without_addresses(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    ensure!(placed.was.interface.is_some(), "attach answered no interface");
    Ok(())
}

fn only_lo(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let container = stage.container()?;
    let before = container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")??;
    let endpoint = stage.endpoint(&network, 10)?;
    let placed = stage.place_in(&network, endpoint.clone(), container.clone())?;
    ensure!(placed.was.interface.is_none(), "attach answered {:?}", placed.was);
    let mut wishes = [endpoint.clone(), endpoint.clone()];
    wishes[0].addresses.push([10, 101, 0, 10].into());
    wishes[1].mac = Some(Mac::of_endpoint(&endpoint.id));
    for mut wish in wishes {
        wish.id = stage.endpoint_id();
        refused!(
            stage.driver().attach(&network, &wish, container.as_fd()),
            Unsupported,
            "attach with {wish:?}"
        );
    }
    let after = container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")??;
    after.is_same_as(&before, "inside the container")
}

/// The container's link of the endpoint.
pub(super) fn link(placed: &Placed) -> Verdict<Link> {
    let name = placed.interface();
    let found = placed.inside(|| kernel::link(name))?;
    found.ok_or_else(|| Stop::failed(format!("there is no '{name}' inside")))
}

/// Its addresses but for the one that the kernel gives every interface.
fn addresses(placed: &Placed) -> Verdict<BTreeSet<Address>> {
    let all = placed.inside(|| kernel::addresses(Some(placed.interface())))?;
    let kernels = |address: &Address| matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    Ok(all.into_iter().filter(|address| !kernels(address)).collect())
}

fn makes_the_interface(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let Some(told) = placed.was.interface.clone() else {
        return Err(Stop::failed("attach answered no interface"));
    };
    let link = link(&placed)?;
    ensure!(link.is_up, "the interface is down");
    ensure!(told.name == placed.endpoint.interface, "attach answered the name '{}'", told.name);
    ensure!(
        told.mac.octets()[..] == link.mac,
        "attach answered {}, the link has {:02x?}",
        told.mac,
        link.mac
    );
    ensure!(told.mtu == link.mtu, "attach answered MTU {}, the link has {}", told.mtu, link.mtu);
    let told: BTreeSet<Address> = told.addresses.into_iter().collect();
    let found = addresses(&placed)?;
    ensure!(told == found, "attach answered {told:?}, the link has {found:?}");
    if !placed.endpoint.addresses.is_empty() {
        let asked = network.pools.iter().zip(&placed.endpoint.addresses);
        let asked: Verdict<BTreeSet<Address>> =
            asked.map(|(pool, ip)| Ok(pool.subnet.address(*ip)?)).collect();
        let asked = asked?;
        ensure!(asked == found, "{asked:?} was asked for, the link has {found:?}");
    }
    stage.check(&placed).doing(|| "check")
}

/// Fails unless two containers reach each other in every family.
pub(super) fn reach_each_other(stage: &Stage<'_>, one: &Placed, other: &Placed) -> Verdict {
    for family in stage.families() {
        way(one, other, family)?.is_open("from one container to the other")?;
        way(other, one, family)?.is_open("from the other container to the one")?;
    }
    Ok(())
}

fn connects(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let one = stage.placed(&network, 10)?;
    let other = stage.placed(&network, 11)?;
    reach_each_other(stage, &one, &other)?;
    let third = stage.placed(&network, 12)?;
    reach_each_other(stage, &third, &one)
}

/// The default routes of a family inside.
pub(super) fn default_routes(placed: &Placed, family: Family) -> Verdict<Vec<Route>> {
    let to: Subnet = subnet(if family == Family::V4 { V4_DEFAULT } else { V6_DEFAULT })?;
    let mut routes = placed.inside(kernel::routes)?;
    routes.retain(|route| route.to == to);
    Ok(routes)
}

/// Fails unless the default routes inside are those that the endpoint and the attachment speak of.
pub(super) fn routes_are_right(stage: &Stage<'_>, placed: &Placed) -> Verdict {
    for family in stage.families() {
        let gateways: Vec<Option<IpAddr>> =
            default_routes(placed, family)?.into_iter().map(|route| route.gateway).collect();
        let told = placed.was.gateways.iter().filter(|ip| Family::of(**ip) == family);
        let told: Vec<Option<IpAddr>> = told.map(|ip| Some(*ip)).collect();
        ensure!(gateways == told, "{family}: attach answered the gateways {told:?}, there are {gateways:?}");
        let is_gateway = placed.endpoint.gateway.has(family);
        ensure!(
            gateways.len() == usize::from(is_gateway),
            "{family}: the network is {}the gateway, and there are default routes by {gateways:?}",
            if is_gateway { "" } else { "not " }
        );
    }
    Ok(())
}

fn default_route(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    routes_are_right(stage, &stage.placed(&network, 10)?)?;
    let mut endpoint = stage.endpoint(&network, 11)?;
    endpoint.gateway = Families::NONE;
    routes_are_right(stage, &stage.place(&network, endpoint)?)?;
    let mut endpoint = stage.endpoint(&network, 12)?;
    endpoint.gateway.v6 = false;
    routes_are_right(stage, &stage.place(&network, endpoint)?)
}

fn mac(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let own = stage.placed(&network, 10)?;
    let expected = Mac::of_endpoint(&own.endpoint.id);
    let found = link(&own)?.mac;
    ensure!(found == expected.octets(), "none was wished for: {found:02x?}, expected {expected}");
    let mut endpoint = stage.endpoint(&network, 11)?;
    let wished = Mac::new([0x02, 0x42, 0xac, 0x11, 0, 2])?;
    endpoint.mac = Some(wished);
    let placed = stage.place(&network, endpoint)?;
    let found = link(&placed)?.mac;
    ensure!(found == wished.octets(), "{wished} was wished for, the link has {found:02x?}");
    reach_each_other(stage, &own, &placed)
}

fn refuses_mac(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    endpoint.mac = Some(Mac::of_endpoint(&endpoint.id));
    fails_and_leaves_nothing(stage, |container| {
        refused!(
            stage.driver().attach(&network, &endpoint, container),
            Unsupported,
            "attach with a wished MAC"
        );
        Ok(())
    })
}

fn mtu(stage: &Stage<'_>) -> Verdict {
    let mut wanted = stage.wanted(1)?;
    wanted.mtu = Some(1300);
    let network = stage.network_of(wanted)?;
    let placed = stage.placed(&network, 10)?;
    let found = link(&placed)?.mtu;
    ensure!(found == 1300, "the network has MTU 1300, the link {found}");
    let network = stage.network(2)?;
    let placed = stage.placed(&network, 10)?;
    let found = link(&placed)?.mtu;
    ensure!(
        network.mtu.is_none_or(|mtu| mtu == found),
        "the plan has MTU {:?}, the link {found}",
        network.mtu
    );
    Ok(())
}

fn long_name(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let other = stage.placed(&network, 10)?;
    let mut endpoint = stage.endpoint(&network, 11)?;
    endpoint.interface = "fifteen-bytes.x".parse()?;
    let placed = stage.place(&network, endpoint)?;
    link(&placed)?;
    reach_each_other(stage, &placed, &other)?;
    stage.detach(&placed)
}

fn link_local(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    endpoint.addresses.push([169, 254, 8, 1].into());
    let placed = stage.place(&network, endpoint)?;
    let found = addresses(&placed)?;
    let expected: Address = "169.254.8.1/16".parse()?;
    ensure!(found.contains(&expected), "{expected} is not among {found:?}");
    let told = placed.was.interface.iter().any(|interface| interface.addresses.contains(&expected));
    ensure!(told, "attach did not answer {expected}");
    stage.check(&placed).doing(|| "check")
}

fn no_advertisement(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    heeds_no_router(&stage.placed(&network, 10)?)
}

fn heeds_no_router(placed: &Placed) -> Verdict {
    let name = format!("ipv6/conf/{}/accept_ra", placed.interface());
    let found = placed.inside(|| Ok(setting(&name)))?;
    ensure!(found.as_deref().is_none_or(|value| value == "0"), "{name} is {found:?}");
    Ok(())
}

/// Root in such a container is another user of the host, and the owner of what is in the namespace.
fn another_root(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let namespace = Namespace::of_another_root().map_err(|error| Stop::Skipped(error.to_string()))?;
    let mut placed = stage.place_in(&network, stage.endpoint(&network, 10)?, Arc::new(namespace))?;
    let neighbour = stage.placed(&network, 11)?;
    heeds_no_router(&placed)?;
    let gateways = if stage.can().live { &[Families::NONE, network.routes][..] } else { &[] };
    for &gateway in gateways {
        placed.endpoint.gateway = gateway;
        let (was, container) = (&placed.was, placed.namespace.as_fd());
        placed.was = stage.driver().update(&network, was, &placed.endpoint, container).doing(|| "update")?;
        routes_are_right(stage, &placed)?;
    }
    reach_each_other(stage, &placed, &neighbour)?;
    stage.check(&placed).doing(|| "check")?;
    stage.detach(&placed)?;
    let left = placed.inside(kernel::links)?;
    ensure!(left.iter().all(|link| link.name == "lo"), "detach left {left:?}");
    Ok(())
}

fn two_networks(stage: &Stage<'_>) -> Verdict {
    let (first, second) = (stage.network(1)?, stage.network(2)?);
    let (neighbour, other) = (stage.placed(&first, 10)?, stage.placed(&second, 10)?);
    let one = stage.placed(&first, 20)?;
    let mut endpoint = stage.endpoint(&second, 20)?;
    endpoint.interface = "eth1".parse()?;
    endpoint.gateway = Families::NONE;
    let two = stage.place_in(&second, endpoint, one.namespace.clone())?;
    reach_each_other(stage, &one, &neighbour)?;
    reach_each_other(stage, &two, &other)?;
    routes_are_right(stage, &one)?;
    stage.detach(&two)?;
    let inside = one.inside(kernel::links)?;
    ensure!(!inside.iter().any(|link| link.name == "eth1"), "the second interface is still there");
    stage.check(&one).doing(|| "check of the network that is left")?;
    reach_each_other(stage, &one, &neighbour)
}

/// Runs an attach that has to fail, and fails itself where that left anything on the host or in the container.
pub(super) fn fails_and_leaves_nothing(
    stage: &Stage<'_>,
    attach: impl FnOnce(BorrowedFd<'_>) -> Verdict,
) -> Verdict {
    let container = stage.container()?;
    fails_and_leaves_nothing_in(&container, attach)
}

fn fails_and_leaves_nothing_in(
    container: &Namespace,
    attach: impl FnOnce(BorrowedFd<'_>) -> Verdict,
) -> Verdict {
    let host = Snapshot::without_rules()?;
    let inside = container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")??;
    attach(container.as_fd())?;
    host.comes_back(Snapshot::without_rules, "on the host, after the attach that failed")?;
    let after = container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")??;
    after.is_same_as(&inside, "inside, after the attach that failed")
}

fn name_taken(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let container = stage.container()?;
    container.inside(|| kernel::add_bridge("eth0")).doing(|| "make an interface inside")?;
    let endpoint = stage.endpoint(&network, 10)?;
    fails_and_leaves_nothing_in(&container, |container| {
        let attached = stage.driver().attach(&network, &endpoint, container);
        refused!(attached, AlreadyExists, "attach with a name that is taken inside");
        Ok(())
    })?;
    container.inside(|| kernel::remove_link("eth0")).doing(|| "remove the interface inside")?;
    stage.place_in(&network, endpoint, container).map(drop)
}

fn twice(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (other, placed) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    let attach = |container: BorrowedFd<'_>| {
        let attached = stage.driver().attach(&network, &placed.endpoint, container);
        refused!(attached, AlreadyExists, "a second attach");
        Ok(())
    };
    fails_and_leaves_nothing_in(&placed.namespace, attach)?;
    fails_and_leaves_nothing(stage, attach)?;
    stage.check(&placed).doing(|| "check of what was attached twice")?;
    reach_each_other(stage, &placed, &other)
}

fn not_up(stage: &Stage<'_>) -> Verdict {
    let network = stage.planned(1)?;
    if let Some(parent) = &network.interface
        && kernel::link(parent.as_str()).doing(|| "look for the interface")?.is_some()
    {
        // It stands on an interface that is there already, so it is never down.
        return Ok(());
    }
    let endpoint = stage.endpoint(&network, 10)?;
    fails_and_leaves_nothing(stage, |container| {
        refused!(
            stage.driver().attach(&network, &endpoint, container),
            NotFound,
            "attach to a network that is not up"
        );
        Ok(())
    })
}

fn from_elsewhere(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    for family in stage.families() {
        let mut endpoint = stage.endpoint(&network, 10)?;
        let foreign = match family {
            Family::V4 => nth(subnet("10.99.0.0/24")?, 9),
            Family::V6 => nth(subnet("fd00:99::/64")?, 9),
        };
        endpoint.addresses = vec![foreign];
        fails_and_leaves_nothing(stage, |container| {
            refused!(stage.driver().attach(&network, &endpoint, container), Options, "attach with {foreign}");
            Ok(())
        })?;
    }
    Ok(())
}
