//! Subnets are chosen against what a host really has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::process::Command;

use mica_conformance::network::Namespace;
use mica_core::network::{Family, OwnerId, Subnet};
use mica_net::ipam::{self, Taken};

/// What a host with these commands of `ip` uses.
fn taken(commands: &[&str]) -> Vec<Taken> {
    let host = Namespace::new().unwrap();
    host.inside(|| {
        for command in commands {
            let done = Command::new("ip").args(command.split(' ')).output()?;
            assert!(done.status.success(), "ip {command}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(ipam::taken_by_host().unwrap())
    })
    .unwrap()
}

fn chosen(family: Family, taken: &[Taken]) -> Subnet {
    ipam::choose(&ipam::blocks(family, &OwnerId::from_bytes([1; 8])).unwrap(), taken).unwrap()
}

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

const LAN: [&str; 3] = ["link add eth1 type veth", "addr add 172.16.0.7/24 dev eth1", "link set eth1 up"];

#[test]
fn a_network_is_put_beside_the_hosts_own() {
    let taken = taken(&LAN);
    assert!(
        taken.contains(&Taken { subnet: subnet("172.16.0.0/24"), by: "interface 'eth1'".to_owned() }),
        "{taken:?}"
    );
    assert_eq!(chosen(Family::V4, &taken), subnet("172.16.1.0/24"));
}

/// docker/for-linux#418: the network of the office is behind a tunnel.
#[test]
fn what_a_route_of_any_table_leads_to_is_left_alone() {
    let routes =
        ["route add 172.16.0.0/13 via 172.16.0.9", "route add 172.24.0.0/14 via 172.16.0.9 table 77"];
    assert_eq!(chosen(Family::V4, &taken(&[&LAN[..], &routes].concat())), subnet("172.28.0.0/24"));
}

/// docker/libnetwork#779: with a VPN up no network could be made at all.
#[test]
fn a_route_to_everybody_takes_nothing() {
    let routes = [
        "route add default via 172.16.0.9",
        "route add 0.0.0.0/1 via 172.16.0.9",
        "route add 128.0.0.0/1 via 172.16.0.9",
    ];
    let taken = taken(&[&LAN[..], &routes].concat());
    assert_eq!(chosen(Family::V4, &taken), subnet("172.16.1.0/24"));
}

#[test]
fn an_interface_that_is_down_keeps_its_subnet() {
    let down = [
        "link add eth2 type veth",
        "addr add 172.16.0.1/16 dev eth2",
        "addr add fd01:101:101:0::1/64 dev eth2",
    ];
    let taken = taken(&down);
    assert_eq!(chosen(Family::V4, &taken), subnet("172.17.0.0/24"));
    assert_eq!(chosen(Family::V6, &taken), subnet("fd01:101:101:1::/64"));
}
