//! Published ports: who reaches them, where, and as whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use mica_core::network::{Endpoint, Family, Mac, Network, Port, Protocol};

use super::attach::fails_and_leaves_nothing;
use super::list;
use crate::network::case::nothing;
use crate::network::traffic::{Connection, PROTOCOLS, Way, lead_loopback_to};
use crate::network::{Namespace, Placed, Stage};
use crate::outcome::{Doing, Verdict, ensure, refused};

list! {
    "ports-from-outside" from_outside =
        "a published port is reached from other hosts, with the client's address preserved; else attach answers Unsupported",
        Ports else refuses;
    "ports-from-the-host" from_the_host =
        "a published port is reached from this host, at its addresses and at 127.0.0.1",
        Ports else nothing;
    "ports-from-containers" from_containers =
        "a published port is reached from containers of this and of other networks, and from the container itself",
        Ports else nothing;
    "ports-at-one-address" at_one_address =
        "a port is reached at the host's address that it names, and at no other",
        Ports else nothing;
    "ports-at-localhost" at_localhost =
        "a port at 127.0.0.1 is reached from this host and from nowhere else",
        Ports else nothing;
    "ports-range" range =
        "of a range each port of the host leads to the container's of the same place",
        Ports else nothing;
    "ports-without-the-gateway" without_the_gateway =
        "ports are published in the families in which the network is the gateway, and in no other",
        Ports else nothing;
    "ports-go-with-detach" go_with_detach =
        "when detach returns nothing leads to the endpoint's ports, and they can be given to another",
        Ports else nothing;
    "ports-are-told" are_told =
        "the attachment says what is published, and check finds it in order",
        Ports else nothing;
    "update-ports" update_ports =
        "an update publishes and withdraws ports; what stays published loses no connection",
        Ports else nothing;
    "up-mends-ports" up_mends_ports =
        "ports that were flushed with the rules are told by check, and published again by an update",
        Ports else nothing;
}

fn port(text: &str) -> Verdict<Port> {
    Ok(text.parse::<Port>()?)
}

fn both(text: &str) -> Verdict<Vec<Port>> {
    PROTOCOLS.into_iter().map(|protocol| port(&format!("{text}/{protocol}"))).collect()
}

/// A container with these ports, by both protocols.
fn publishing(stage: &Stage<'_>, network: &Network, number: u16, ports: &[&str]) -> Verdict<Placed> {
    let mut endpoint = stage.endpoint(network, number)?;
    for text in ports {
        endpoint.ports.extend(both(text)?);
    }
    stage.place(network, endpoint)
}

/// From somewhere to a port of the host's, behind which the container listens at 80.
fn by_port<'a>(from: &'a Namespace, at: IpAddr, host: u16, to: &'a Placed) -> Way<'a> {
    Way { from, at: SocketAddr::new(at, host), to: &to.namespace, port: 80 }
}

/// The families in which a network's ports are published.
fn published(stage: &Stage<'_>, network: &Network) -> Vec<Family> {
    stage.families().into_iter().filter(|family| network.routes.has(*family)).collect()
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn from_outside(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = publishing(stage, &network, 10, &["8080:80"])?;
    let families = published(stage, &network);
    ensure!(!families.is_empty(), "the network can be the gateway in no family");
    for family in families {
        let (host, outside) = stage.uplink(family)?;
        for at in [host, stage.second_address(family)?] {
            for protocol in PROTOCOLS {
                let way = by_port(stage.outside(), at, 8080, &placed);
                let seen = way.is_open_by(protocol, "from outside")?;
                ensure!(seen == outside, "{protocol}: the client {outside} is seen as {seen}");
            }
        }
        by_port(stage.outside(), host, 8081, &placed).is_closed("a port that is not published")?;
    }
    Ok(())
}

fn refuses(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    endpoint.ports = vec![port("8080:80")?];
    fails_and_leaves_nothing(stage, |container| {
        refused!(stage.driver().attach(&network, &endpoint, container), Unsupported, "attach with a port");
        Ok(())
    })
}

fn from_the_host(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = publishing(stage, &network, 10, &["8080:80"])?;
    for family in published(stage, &network) {
        let (host, _) = stage.uplink(family)?;
        by_port(stage.host(), host, 8080, &placed).is_open("from the host, at its own address")?;
    }
    by_port(stage.host(), LOCALHOST, 8080, &placed).is_open("from the host, at 127.0.0.1")
}

fn from_containers(stage: &Stage<'_>) -> Verdict {
    let (network, second) = (stage.network(1)?, stage.network(2)?);
    let placed = publishing(stage, &network, 10, &["8080:80"])?;
    let (neighbour, other) = (stage.placed(&network, 11)?, stage.placed(&second, 10)?);
    for family in published(stage, &network) {
        let (host, _) = stage.uplink(family)?;
        by_port(&neighbour.namespace, host, 8080, &placed).is_open("from a container of the same network")?;
        by_port(&other.namespace, host, 8080, &placed).is_open("from a container of another network")?;
        by_port(&placed.namespace, host, 8080, &placed).is_open("from the container itself")?;
    }
    Ok(())
}

fn at_one_address(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    for (number, family) in published(stage, &network).into_iter().enumerate() {
        let (host, _) = stage.uplink(family)?;
        let second = stage.second_address(family)?;
        let text = if family == Family::V4 { format!("{host}:8080:80") } else { format!("[{host}]:8080:80") };
        let placed = publishing(stage, &network, 10 + u16::try_from(number).unwrap_or_default(), &[&text])?;
        by_port(stage.outside(), host, 8080, &placed).is_open("at the address that is named")?;
        by_port(stage.outside(), second, 8080, &placed).is_closed("at another address")?;
        by_port(stage.host(), LOCALHOST, 8080, &placed).is_closed("at 127.0.0.1")?;
    }
    Ok(())
}

fn at_localhost(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = publishing(stage, &network, 10, &["127.0.0.1:8080:80"])?;
    let neighbour = stage.placed(&network, 11)?;
    by_port(stage.host(), LOCALHOST, 8080, &placed).is_open("from the host")?;
    let (host, _) = stage.uplink(Family::V4)?;
    by_port(stage.outside(), host, 8080, &placed).is_closed("from outside, at the host's address")?;
    // Packets for 127.0.0.1 arrive at the host's link, if a neighbour wants that (moby#41872).
    stage.outside().inside(|| lead_loopback_to(host)).doing(|| "lead 127.0.0.0/8 to the host")?;
    by_port(stage.outside(), LOCALHOST, 8080, &placed).is_closed("from outside, at 127.0.0.1")?;
    by_port(&neighbour.namespace, host, 8080, &placed)
        .is_closed("from a container, at the host's address")?;
    if let Some(gateway) = network.pools.iter().filter_map(|pool| pool.gateway).find(IpAddr::is_ipv4) {
        neighbour.inside(|| lead_loopback_to(gateway))?;
        by_port(&neighbour.namespace, LOCALHOST, 8080, &placed)
            .is_closed("from a container, at 127.0.0.1")?;
    }
    Ok(())
}

fn range(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = publishing(stage, &network, 10, &["3000-3099:4000-4099"])?;
    for family in published(stage, &network) {
        let (host, _) = stage.uplink(family)?;
        for offset in [0, 1, 50, 99] {
            let way = Way { port: 4000 + offset, ..by_port(stage.outside(), host, 3000 + offset, &placed) };
            way.is_open("from outside")?;
        }
        let beyond = Way { port: 4100, ..by_port(stage.outside(), host, 3100, &placed) };
        beyond.is_closed("the port after the last")?;
    }
    Ok(())
}

fn without_the_gateway(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    endpoint.ports = both("8080:80")?;
    endpoint.gateway.v6 = false;
    let placed = stage.place(&network, endpoint)?;
    for family in published(stage, &network) {
        let way = by_port(stage.outside(), stage.uplink(family)?.0, 8080, &placed);
        match family {
            Family::V4 => way.is_open("in the family of the gateway")?,
            Family::V6 => way.is_closed("in the other family")?,
        }
    }
    Ok(())
}

fn go_with_detach(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (host, _) = stage.uplink(Family::V4)?;
    let mut endpoint = stage.endpoint(&network, 10)?;
    endpoint.ports = both("8080:80")?;
    let first = stage.place(&network, endpoint)?;
    by_port(stage.outside(), host, 8080, &first).is_open("from outside")?;
    stage.detach(&first)?;
    by_port(stage.outside(), host, 8080, &first).is_closed("after detach")?;
    let second = publishing(stage, &network, 11, &["8080:80"])?;
    by_port(stage.outside(), host, 8080, &second).is_open("to the next container")?;
    let Placed { endpoint, .. } = second.clone();
    drop(second);
    stage.reopened()?.detach(&network, &endpoint, None, None).doing(|| "detach without a namespace")?;
    let third = publishing(stage, &network, 12, &["8080:80"])?;
    by_port(stage.outside(), host, 8080, &third).is_open("to the container after that")
}

fn are_told(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = publishing(stage, &network, 10, &["8080:80", "127.0.0.1:9090:90"])?;
    let (told, asked) = (&placed.was.ports, &placed.endpoint.ports);
    ensure!(
        asked.iter().all(|port| told.contains(port)),
        "{asked:?} was asked for, attach answered {told:?}"
    );
    stage.check(&placed).doing(|| "check")
}

fn update_ports(stage: &Stage<'_>) -> Verdict {
    if !stage.can().live {
        return Ok(());
    }
    let network = stage.network(1)?;
    let mut placed = publishing(stage, &network, 10, &["8080:80", "8082:80"])?;
    let (host, _) = stage.uplink(Family::V4)?;
    let outside = stage.outside();
    let mut kept = Connection::new(&by_port(outside, host, 8080, &placed))?;
    placed.endpoint.ports = [both("8080:80")?, both("8081:80")?].concat();
    let Placed { endpoint, was, namespace, .. } = &placed;
    let now = stage.driver().update(&network, was, endpoint, namespace.as_fd()).doing(|| "update")?;
    ensure!(endpoint.ports.iter().all(|port| now.ports.contains(port)), "update answered {:?}", now.ports);
    placed.was = now;
    kept.lives()?;
    by_port(outside, host, 8080, &placed).is_open("a port that stays")?;
    by_port(outside, host, 8081, &placed).is_open("a new port")?;
    by_port(outside, host, 8082, &placed).is_closed("a port that was withdrawn")?;
    stage.check(&placed).doing(|| "check after an update")?;
    stage.detach(&placed)?;
    by_port(outside, host, 8081, &placed).is_closed("after detach")
}

fn up_mends_ports(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut endpoint: Endpoint = stage.endpoint(&network, 10)?;
    endpoint.mac = Some(Mac::of_endpoint(&endpoint.id)).filter(|_| stage.can().mac);
    endpoint.ports = both("8080:80")?;
    let placed = stage.place(&network, endpoint)?;
    let before = crate::network::kernel::rules::tables().doing(|| "list the tables")?;
    crate::network::kernel::rules::flush().doing(|| "flush the rules")?;
    let way = by_port(stage.outside(), stage.uplink(Family::V4)?.0, 8080, &placed);
    if before.is_empty() || !stage.can().live {
        return way.is_open_by(Protocol::Tcp, "after a flush of what was not there").map(drop);
    }
    ensure!(stage.check(&placed).is_err(), "check finds nothing wrong after the rules were flushed");
    stage.driver().up(&network).doing(|| "up after the flush")?;
    let Placed { endpoint, was, namespace, .. } = &placed;
    let now = stage.driver().update(&network, was, endpoint, namespace.as_fd()).doing(|| "update")?;
    ensure!(now.ports == was.ports, "update answered {:?}, attach {:?}", now.ports, was.ports);
    way.is_open("after the update")?;
    stage.check(&placed).doing(|| "check after the update")
}
