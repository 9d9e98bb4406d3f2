//! What must not get through, and what must.

use std::net::IpAddr;

use mica_core::network::{Address, Addressing, Family, Mac, Network};

use super::attach::{link, reach_each_other};
use super::lifecycle::way;
use super::list;
use crate::network::case::nothing;
use crate::network::kernel;
use crate::network::snapshot::{setting, settings};
use crate::network::stage::{UPLINK, outside_of, subnet};
use crate::network::traffic::{Connection, RouterEars, Way, advertise_router, lead_loopback_to};
use crate::network::{Namespace, Placed, Stage};
use crate::outcome::{Doing, Verdict, ensure};

list! {
    "reaches-the-world" reaches_the_world =
        "a container whose gateway is a shielded network reaches other hosts",
        Shielded else nothing;
    "shield-between-networks" between_networks =
        "nothing gets from one network to another",
        Shielded else nothing;
    "shield-from-outside" from_outside =
        "nothing gets from outside the host to a container's address",
        Shielded else nothing;
    "shield-lets-answers-through" answers_come_back =
        "connections that a container began go on, both ways",
        Shielded else nothing;
    "shield-hardware-address" hardware_address =
        "a frame with another hardware address than the endpoint's does not get through",
        Shielded else nothing;
    "shield-network-address" network_address =
        "a packet with another endpoint's address as its source does not get through",
        Shielded else nothing;
    "shield-router-advertisement" router_advertisement =
        "a router advertisement of a container reaches no neighbour, and the host does not heed it",
        Shielded else nothing;
    "shield-loopback-of-the-host" loopback_of_the_host =
        "a container does not reach what listens at the host's 127.0.0.1",
        Shielded else nothing;
    "internal-is-cut-off" internal_is_cut_off =
        "an internal network reaches nothing but the host and itself, and is reached by nothing else",
        Internal else nothing;
    "host-stays-no-router" no_router =
        "forwarding between interfaces that are not the driver's stays as closed as it was";
    "settings-are-told-and-restored" settings_told =
        "a setting of the host that up changed is in its answer; restore puts it back";
    "advertisements-of-the-host" advertisements =
        "where IPv6 forwarding is turned on, the host goes on heeding router advertisements";
}

fn reaches_the_world(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    for family in stage.families() {
        let (_, outside) = stage.uplink(family)?;
        Way::direct(&placed.namespace, stage.outside(), outside)
            .is_open("from a container to the outside")?;
    }
    Ok(())
}

/// Whatever the operator's own settings are: the host forwards everything.
fn host_forwards() -> Verdict {
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{name}"), "1").doing(|| format!("set {name}"))?;
    }
    Ok(())
}

fn between_networks(stage: &Stage<'_>) -> Verdict {
    host_forwards()?;
    let (first, second) = (stage.network(1)?, stage.network(2)?);
    let (one, other) = (stage.placed(&first, 10)?, stage.placed(&second, 10)?);
    for family in stage.families() {
        way(&one, &other, family)?.is_closed("from the first network to the second")?;
        way(&other, &one, family)?.is_closed("from the second network to the first")?;
    }
    Ok(())
}

/// Leads the networks of a container's addresses from a machine to the host.
fn lead(from: &Namespace, network: &Network, hosts: &[IpAddr]) -> Verdict {
    for pool in &network.pools {
        for host in hosts.iter().filter(|host| Family::of(**host) == pool.subnet.family()) {
            from.inside(|| kernel::add_route(pool.subnet, *host)).doing(|| "add a route outside")?;
        }
    }
    Ok(())
}

fn from_outside(stage: &Stage<'_>) -> Verdict {
    host_forwards()?;
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    for family in stage.families() {
        lead(stage.outside(), &network, &[stage.uplink(family)?.0])?;
        let address = placed.address(family)?;
        Way::direct(stage.outside(), &placed.namespace, address).is_closed("from outside")?;
        Way::direct(stage.host(), &placed.namespace, address).is_open("from the host")?;
    }
    Ok(())
}

fn answers_come_back(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    for family in stage.families() {
        let (_, outside) = stage.uplink(family)?;
        let mut kept = Connection::new(&Way::direct(&placed.namespace, stage.outside(), outside))?;
        stage.driver().up(&network).doing(|| "up")?;
        let _another = stage.placed(&network, if family == Family::V4 { 20 } else { 21 })?;
        kept.lives()?;
    }
    Ok(())
}

fn hardware_address(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    reach_each_other(stage, &one, &other)?;
    let own = link(&one)?.mac;
    let foreign = Mac::new([0x02, 9, 9, 9, 9, 9])?;
    one.inside(|| kernel::set_mac(one.interface(), foreign))?;
    ensure!(link(&one)?.mac != own, "the hardware address stayed");
    stage
        .families()
        .into_iter()
        .try_for_each(|family| way(&one, &other, family)?.is_closed("with another hardware address"))
}

fn network_address(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    let third = stage.placed(&network, 12)?;
    for family in stage.families() {
        let prefix = one.was.interface.iter().flat_map(|interface| &interface.addresses);
        let prefix = prefix.copied().find(|address| Family::of(address.ip()) == family);
        let (own, stolen) = (prefix, third.address(family)?);
        let Some(own) = own else { continue };
        let stolen = Address::new(stolen, own.prefix())?;
        one.inside(|| {
            kernel::remove_address(one.interface(), own)?;
            kernel::add_address(one.interface(), stolen)
        })?;
        way(&one, &other, family)?.is_closed("with the address of a third container")?;
    }
    reach_each_other(stage, &third, &other)
}

/// What a container can do that may open raw sockets (CVE-2020-10749).
fn router_advertisement(stage: &Stage<'_>) -> Verdict {
    if !stage.families().contains(&Family::V6) {
        return Ok(());
    }
    let network = stage.network(1)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    // Only one from an address of the link is heeded.
    let own = [0xfe80, 0, 0, 0, 0, 0, 0, 0x10].into();
    let is_given = stage.can().addressing == Addressing::Engine;
    endpoint.addresses.extend(is_given.then_some(IpAddr::V6(own)));
    let (one, other) = (stage.place(&network, endpoint)?, stage.placed(&network, 11)?);
    reach_each_other(stage, &one, &other)?;
    let ears = other.inside(RouterEars::open)?;
    let before = kernel::routes().doing(|| "look at the routes")?;
    one.inside(|| advertise_router(one.interface(), is_given.then_some(own)))?;
    ensure!(!ears.hear().doing(|| "listen")?, "a neighbour hears that the container is a router");
    let after = kernel::routes().doing(|| "look at the routes")?;
    ensure!(after == before, "the host heeds that the container is a router: {before:?} became {after:?}");
    Ok(())
}

fn loopback_of_the_host(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let gateways = network.pools.iter().filter_map(|pool| pool.gateway);
    let Some(gateway) = gateways.into_iter().find(IpAddr::is_ipv4) else { return Ok(()) };
    placed.inside(|| lead_loopback_to(gateway))?;
    Way::direct(&placed.namespace, stage.host(), [127, 0, 0, 1].into())
        .is_closed("from a container, at 127.0.0.1")
}

fn internal_is_cut_off(stage: &Stage<'_>) -> Verdict {
    host_forwards()?;
    let mut wanted = stage.wanted(1)?;
    wanted.internal = true;
    let (network, second) = (stage.network_of(wanted)?, stage.network(2)?);
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    let stranger = stage.placed(&second, 10)?;
    reach_each_other(stage, &one, &other)?;
    for family in stage.families() {
        let (host, outside) = stage.uplink(family)?;
        let address = one.address(family)?;
        lead(stage.outside(), &network, &[host])?;
        let gateways = network.pools.iter().filter_map(|pool| pool.gateway);
        for gateway in gateways.filter(|gateway| Family::of(*gateway) == family) {
            // What the container's own root may do.
            let all = subnet(if family == Family::V4 { "0.0.0.0/0" } else { "::/0" })?;
            one.inside(|| kernel::add_route(all, gateway))?;
        }
        Way::direct(&one.namespace, stage.outside(), outside)
            .is_closed("from the internal network to the outside")?;
        Way::direct(stage.outside(), &one.namespace, address)
            .is_closed("from outside to the internal network")?;
        way(&stranger, &one, family)?.is_closed("from another network to the internal one")?;
        way(&one, &stranger, family)?.is_closed("from the internal network to another one")?;
    }
    Ok(())
}

fn no_router(stage: &Stage<'_>) -> Verdict {
    let there = ["198.51.99.2/24", "2001:db8:0:fffe::2/64"];
    let second = outside_of("uplink1", &["198.51.99.1/24", "2001:db8:0:fffe::1/64"], &there);
    let second = second.doing(|| "make a second machine outside")?;
    let network = stage.network(1)?;
    let _placed: Placed = stage.placed(&network, 10)?;
    for (family, there) in [Family::V4, Family::V6].into_iter().zip(there) {
        let (host, outside) = stage.uplink(family)?;
        let there: Address = there.parse()?;
        let back: Address =
            if family == Family::V4 { "198.51.99.1/24" } else { "2001:db8:0:fffe::1/64" }.parse()?;
        let first_net = Address::new(outside, there.prefix())?.subnet();
        stage.outside().inside(|| kernel::add_route(there.subnet(), host)).doing(|| "add a route")?;
        second.inside(|| kernel::add_route(first_net, back.ip())).doing(|| "add a route")?;
        Way::direct(stage.outside(), &second, there.ip()).is_closed("from one foreign network to another")?;
    }
    Ok(())
}

fn settings_told(stage: &Stage<'_>) -> Verdict {
    let before = settings();
    let network = stage.planned(1)?;
    let changes = stage.driver().up(&network).doing(|| "up")?.host;
    for ((name, was), (_, now)) in before.iter().zip(settings()) {
        // Where all interfaces forward, the kernel sets that of each and the default (kernel documentation, ip-sysctl).
        let with_all = name.starts_with("ipv6.conf.") && name.ends_with(".forwarding");
        let name = if with_all { "ipv6.conf.all.forwarding" } else { name };
        let told = changes.iter().any(|change| change.setting.ends_with(name) && change.now == now);
        ensure!(*was == now || told, "{name} was '{was}' and is '{now}'; up answered {changes:?}");
    }
    let placed = stage.placed(&network, 10)?;
    stage.detach(&placed)?;
    stage.driver().down(&network).doing(|| "down")?;
    stage.reopened()?.restore().doing(|| "restore by another process")?;
    ensure!(settings() == before, "{before:?} became {:?}", settings());
    Ok(())
}

fn advertisements(stage: &Stage<'_>) -> Verdict {
    let accept = format!("ipv6/conf/{UPLINK}/accept_ra");
    if setting(&accept).as_deref() != Some("1") {
        return Ok(());
    }
    let network = stage.network(1)?;
    let _placed = stage.placed(&network, 10)?;
    if setting(&format!("ipv6/conf/{UPLINK}/forwarding")).as_deref() != Some("0") {
        let now = setting(&accept);
        ensure!(
            now.as_deref() == Some("2"),
            "IPv6 is forwarded, and {accept} is {now:?}, so nothing is heeded"
        );
    }
    Ok(())
}
