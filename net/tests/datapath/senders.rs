//! Who a container may say it is.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

use crate::lift::{Guard, lift};
use crate::scene::{Backend, Container, Net, Scene};
use crate::traffic::{BRIEF, PATIENCE, Server, ready};
use crate::under_both;

const ROUTER: u8 = 134;
const NEIGHBOUR: u8 = 136;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// Nobody's.
const CLAIMED: &str = "fd00:1::99";

/// Takes the guards of all endpoints away.
fn unguard(scene: &Scene, containers: &[&Container]) {
    match scene.backend {
        Backend::Nft => lift(scene, &[Guard::Senders]),
        Backend::Iptables => {
            for container in containers {
                let link = host_link(scene, container);
                scene.host.program("tc", &["qdisc", "del", "dev", &link, "clsact"]);
            }
        }
    }
}

/// The other end of a container's interface, by the mark that it bears.
fn host_link(scene: &Scene, container: &Container) -> String {
    let links = scene.host.ip("-o link show");
    let id = container.endpoint.id.to_string();
    let link = links.lines().find(|line| line.contains(&format!(":{id}"))).unwrap();
    link.split([':', '@']).nth(1).unwrap().trim().to_owned()
}

/// Two containers, of which the first will lie to the second.
fn pair(scene: &mut Scene) -> (Net, Container, Container) {
    let net = scene.network(&[]);
    let (liar, other) = (scene.container(&net, 2, &[]), scene.container(&net, 3, &[]));
    (net, liar, other)
}

under_both! {
    fn a_frame_with_a_strange_hardware_address_is_dropped(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        let server = Server::new(&other.machine, 80);
        assert!(server.tcp(&liar.machine, (&other.v4, 80)).is_some());
        liar.machine.ip("link set eth0 address 02:bb:bb:bb:bb:bb");
        liar.machine.ip(&format!("neigh replace {} lladdr {} dev eth0", other.v4, mac(&other)));
        other.machine.ip(&format!("neigh replace {} lladdr 02:bb:bb:bb:bb:bb dev eth0", liar.v4));
        assert!(server.keeps_out(&liar.machine, (&other.v4, 80)));
        unguard(&scene, &[&liar, &other]);
        assert!(server.tcp(&liar.machine, (&other.v4, 80)).is_some());
    }

    fn an_address_that_is_not_its_own_is_not_answered_for(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        let (v4, v6) = ("172.30.1.99", "fd00:1::99");
        liar.machine.ip(&format!("addr add {v4}/24 dev eth0"));
        liar.machine.ip(&format!("addr add {v6}/64 dev eth0 nodad"));
        let server = Server::new(&liar.machine, 80);
        for claimed in [v4, v6] {
            assert!(server.keeps_out(&other.machine, (claimed, 80)), "{claimed}");
        }
        unguard(&scene, &[&liar, &other]);
        for claimed in [v4, v6] {
            other.machine.ip("neigh flush dev eth0");
            assert!(server.tcp(&other.machine, (claimed, 80)).is_some(), "{claimed}");
        }
    }

    fn a_packet_from_an_address_that_is_not_its_own_is_dropped(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        liar.machine.ip(&format!("addr del {}/24 dev eth0", liar.v4));
        liar.machine.ip("addr add 172.30.1.99/24 dev eth0");
        // Both know where the other is, so that no question by ARP fails first.
        liar.machine.ip(&format!("neigh replace {} lladdr {} dev eth0", other.v4, mac(&other)));
        other.machine.ip(&format!("neigh replace 172.30.1.99 lladdr {} dev eth0", mac(&liar)));
        let server = Server::new(&other.machine, 80);
        assert!(server.keeps_out(&liar.machine, (&other.v4, 80)));
        unguard(&scene, &[&liar, &other]);
        assert!(server.udp(&liar.machine, (&other.v4, 80)).is_some());
    }

    fn a_container_claims_no_neighbours_address_by_an_advertisement(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        let listener = icmp6(&other);
        claim(&liar, &other, &liar.v6, false);
        assert!(hears(PATIENCE, &listener, NEIGHBOUR, &liar.v6), "its own");
        for hidden in [false, true] {
            claim(&liar, &other, CLAIMED, hidden);
            assert!(!hears(BRIEF, &listener, NEIGHBOUR, CLAIMED), "hidden: {hidden}");
        }
        unguard(&scene, &[&liar, &other]);
        for hidden in [false, true] {
            claim(&liar, &other, CLAIMED, hidden);
            assert!(hears(PATIENCE, &listener, NEIGHBOUR, CLAIMED), "hidden: {hidden}");
        }
    }

    /// CVE-2020-10749.
    fn a_container_advertises_no_router(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        let listener = icmp6(&other);
        assert!(!hears_router(BRIEF, &liar, &listener));
        unguard(&scene, &[&liar, &other]);
        assert!(hears_router(PATIENCE, &liar, &listener));
    }
}

fn mac(container: &Container) -> String {
    container.attachment.interface.as_ref().unwrap().mac.to_string()
}

fn icmp6(container: &Container) -> OwnedFd {
    let open = || socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
    container.machine.run(open)
}

/// Whether a router that the first advertises to all is heard there.
fn hears_router(patience: Duration, liar: &Container, listener: &OwnedFd) -> bool {
    const ADVERTISEMENT: [u8; 16] = [ROUTER, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let sender = icmp6(liar);
    let index = liar.machine.ip("-o link show eth0").split(':').next().unwrap().parse().unwrap();
    let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    sendto(&sender, &ADVERTISEMENT, SendFlags::empty(), &everyone).unwrap();
    hears(patience, listener, ROUTER, "::")
}

/// Advertises to the other that this address is the first one's; hidden, behind a header of options.
fn claim(liar: &Container, other: &Container, address: &str, hidden: bool) {
    const PADDING: [u8; 8] = [ICMPV6, 0, 1, 4, 0, 0, 0, 0];
    let [from, to, claimed] =
        [&liar.v6, &other.v6, address].map(|ip| ip.parse::<Ipv6Addr>().unwrap().octets());
    let mut message = vec![NEIGHBOUR, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(claimed);
    let sum = checksum(&from, &to, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let (next, options) = if hidden { (DESTINATION_OPTIONS, &PADDING[..]) } else { (ICMPV6, &[][..]) };
    let length = u8::try_from(options.len() + message.len()).unwrap();
    let packet = [&[0x60, 0, 0, 0, 0, length, next, 255], &from[..], &to, options, &message].concat();
    let open = || socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::RAW)).unwrap();
    let there = SocketAddrV6::new(to.into(), 0, 0, 0);
    sendto(liar.machine.run(open), &packet, SendFlags::empty(), &there).unwrap();
}

/// The checksum of an ICMPv6 message (RFC 4443, 2.3).
fn checksum(from: &[u8; 16], to: &[u8; 16], message: &[u8]) -> u16 {
    let length = u8::try_from(message.len()).unwrap();
    let all = [from, &to[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6], message].concat();
    let sum: u32 = all.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// Whether a message of this type about this address arrives in this time. Others, such as those that look for neighbours, may
/// come first.
fn hears(patience: Duration, listener: &OwnedFd, kind: u8, about: &str) -> bool {
    let about = about.parse::<Ipv6Addr>().unwrap().octets();
    while ready(listener, patience) {
        let mut message = [0; 64];
        recv(listener, &mut message, RecvFlags::empty()).unwrap();
        if message[0] == kind && message[8..24] == about {
            return true;
        }
    }
    false
}
