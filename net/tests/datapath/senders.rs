//! Who a container may say it is.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};

use crate::lift::{Guard, lift};
use crate::scene::{Backend, Container, Net, Scene};
use crate::traffic::{Server, ready};
use crate::under_both;

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

    /// CVE-2020-10749.
    fn a_container_advertises_no_router(scene: Scene) {
        let (_net, liar, other) = pair(&mut scene);
        let listener = icmp6(&other);
        assert!(!hears_router(&liar, &listener));
        unguard(&scene, &[&liar, &other]);
        assert!(hears_router(&liar, &listener));
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
fn hears_router(liar: &Container, listener: &OwnedFd) -> bool {
    const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let sender = icmp6(liar);
    let index = liar.machine.ip("-o link show eth0").split(':').next().unwrap().parse().unwrap();
    let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    sendto(&sender, &ADVERTISEMENT, SendFlags::empty(), &everyone).unwrap();
    // Other messages, such as those that look for neighbours, may come first.
    while ready(listener, Duration::from_millis(600)) {
        let mut message = [0; 64];
        recv(listener, &mut message, RecvFlags::empty()).unwrap();
        if message[0] == ADVERTISEMENT[0] {
            return true;
        }
    }
    false
}
