//! What gets through.

use std::net::{IpAddr, UdpSocket};

use crate::namespace::Namespace;
use crate::scene::{ALSO, Backend, Container, HOST, HOST6, OUTSIDE, OUTSIDE6, Scene};
use crate::traffic::{PATIENCE, Server, exchange};
use crate::under_both;

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// That a server is reached over TCP and UDP, and sees this client.
fn reaches(server: &Server, from: &Namespace, to: (&str, u16), seen_as: &str) {
    assert_eq!(server.tcp(from, to), ip(seen_as), "TCP to {to:?}");
    assert_eq!(server.udp(from, to), ip(seen_as), "UDP to {to:?}");
}

fn web(container: &Container) -> Server {
    Server::new(&container.machine, 80)
}

const WEB: [&str; 2] = ["8080:80", "8080:80/udp"];

under_both! {
    fn neighbours_and_the_host_reach_a_container(scene: Scene) {
        let net = scene.network(&[]);
        let (one, two) = (scene.container(&net, 2, &[]), scene.container(&net, 3, &[]));
        let server = web(&one);
        reaches(&server, &two.machine, (&one.v4, 80), &two.v4);
        reaches(&server, &two.machine, (&one.v6, 80), &two.v6);
        reaches(&server, &scene.host, (&one.v4, 80), &net.gateway().0);
        reaches(&server, &scene.host, (&one.v6, 80), &net.gateway().1);
    }

    fn a_container_is_seen_outside_as_the_host(scene: Scene) {
        let net = scene.network(&[]);
        let container = scene.container(&net, 2, &[]);
        let server = Server::new(&scene.outside, 80);
        reaches(&server, &container.machine, (OUTSIDE, 80), HOST);
        reaches(&server, &container.machine, (OUTSIDE6, 80), HOST6);
    }

    fn without_masquerade_a_container_is_seen_as_itself_by_whoever_has_a_route(scene: Scene) {
        let net = scene.network(&[("com.docker.network.bridge.enable_ip_masquerade", "false")]);
        let container = scene.container(&net, 2, &[]);
        let server = Server::new(&scene.outside, 80);
        assert!(server.keeps_out(&container.machine, (OUTSIDE, 80)), "nobody outside knows the way back");
        scene.outside.ip(&format!("route add {} via {HOST}", net.subnets().0));
        scene.outside.ip(&format!("route add {} via {HOST6}", net.subnets().1));
        reaches(&server, &container.machine, (OUTSIDE, 80), &container.v4);
        reaches(&server, &container.machine, (OUTSIDE6, 80), &container.v6);
    }

    fn a_published_port_is_reached_from_outside_and_sees_who_came(scene: Scene) {
        let net = scene.network(&[]);
        let server = web(&scene.container(&net, 2, &WEB));
        reaches(&server, &scene.outside, (HOST, 8080), OUTSIDE);
        reaches(&server, &scene.outside, (ALSO, 8080), OUTSIDE);
        reaches(&server, &scene.outside, (HOST6, 8080), OUTSIDE6);
    }

    fn a_published_port_is_reached_from_the_host_at_each_of_its_addresses(scene: Scene) {
        let net = scene.network(&[]);
        let server = web(&scene.container(&net, 2, &WEB));
        let (gateway, gateway6) = net.gateway();
        for to in [HOST, ALSO, &gateway, "127.0.0.1", "127.0.0.53", HOST6, &gateway6] {
            assert!(server.tcp(&scene.host, (to, 8080)).is_some(), "TCP to {to}");
            assert!(server.udp(&scene.host, (to, 8080)).is_some(), "UDP to {to}");
        }
    }

    fn a_port_at_one_address_is_not_reached_at_another(scene: Scene) {
        let net = scene.network(&[]);
        let at = |address| [format!("{address}:8080:80"), format!("{address}:8080:80/udp")];
        let ports = at(HOST);
        let server = web(&scene.container(&net, 2, &[&ports[0], &ports[1]]));
        reaches(&server, &scene.outside, (HOST, 8080), OUTSIDE);
        for to in [ALSO, HOST6] {
            assert!(server.keeps_out(&scene.outside, (to, 8080)), "{to}");
        }
        assert!(server.keeps_out(&scene.host, ("127.0.0.1", 8080)));
    }

    fn an_unspecified_address_means_every_one_of_its_family(scene: Scene) {
        let net = scene.network(&[]);
        let four = web(&scene.container(&net, 2, &["0.0.0.0:8080:80", "0.0.0.0:8080:80/udp"]));
        reaches(&four, &scene.outside, (ALSO, 8080), OUTSIDE);
        assert!(four.keeps_out(&scene.outside, (HOST6, 8080)));
        let six = web(&scene.container(&net, 3, &["[::]:8081:80", "[::]:8081:80/udp"]));
        reaches(&six, &scene.outside, (HOST6, 8081), OUTSIDE6);
        assert!(six.keeps_out(&scene.outside, (HOST, 8081)));
    }

    fn containers_of_any_network_reach_a_published_port_through_the_host(scene: Scene) {
        let (net, other) = (scene.network(&[]), scene.network(&[]));
        let one = scene.container(&net, 2, &WEB);
        let (two, far) = (scene.container(&net, 3, &[]), scene.container(&other, 2, &[]));
        let server = web(&one);
        for from in [&two.machine, &far.machine] {
            for to in [HOST, HOST6] {
                assert!(server.tcp(from, (to, 8080)).is_some(), "TCP to {to}");
                assert!(server.udp(from, (to, 8080)).is_some(), "UDP to {to}");
            }
        }
    }

    fn a_container_reaches_itself_through_the_host_whatever_the_bridge_filters(scene: Scene) {
        let net = scene.network(&[]);
        let one = scene.container(&net, 2, &WEB);
        let server = web(&one);
        for filters in ["1", "0"] {
            scene.host.set("bridge/bridge-nf-call-iptables", filters);
            scene.host.set("bridge/bridge-nf-call-ip6tables", filters);
            for to in [HOST, HOST6] {
                assert!(server.tcp(&one.machine, (to, 8080)).is_some(), "TCP to {to}, {filters}");
                assert!(server.udp(&one.machine, (to, 8080)).is_some(), "UDP to {to}, {filters}");
            }
        }
    }

    fn a_range_leads_each_port_to_its_own(scene: Scene) {
        let net = scene.network(&[]);
        let container = scene.container(&net, 2, &["3000-3099:5000-5099", "3000-3099:5000-5099/udp"]);
        for (host, inside) in [(3000, 5000), (3042, 5042), (3099, 5099)] {
            let server = Server::new(&container.machine, inside);
            reaches(&server, &scene.outside, (HOST, host), OUTSIDE);
            reaches(&server, &scene.outside, (HOST6, host), OUTSIDE6);
        }
        let beyond = Server::new(&container.machine, 5100);
        assert!(beyond.keeps_out(&scene.outside, (HOST, 3100)));
    }

    fn ports_change_while_a_container_runs_and_go_with_it(scene: Scene) {
        let net = scene.network(&[]);
        let mut container = scene.container(&net, 2, &WEB);
        let server = web(&container);
        scene.publish(&net, &mut container, &["8080:80", "9090:80", "9090:80/udp"]);
        reaches(&server, &scene.outside, (HOST, 9090), OUTSIDE);
        assert_eq!(server.tcp(&scene.outside, (HOST, 8080)), ip(OUTSIDE));
        assert_eq!(server.udp(&scene.outside, (HOST6, 9090)), ip(OUTSIDE6));
        scene.detach(&net, &container);
        let successor = web(&scene.container(&net, 2, &["9090:80", "9090:80/udp"]));
        reaches(&successor, &scene.outside, (HOST, 9090), OUTSIDE);
    }

    fn a_udp_client_finds_the_next_container_at_a_port(scene: Scene) {
        let net = scene.network(&[]);
        let old = scene.container(&net, 2, &["8080:80/udp"]);
        let bind = |container: &Container| container.machine.run(|| UdpSocket::bind("0.0.0.0:80")).unwrap();
        // One client, which keeps its port: the kernel takes all that it sends for one connection.
        let client = scene.outside.run(|| UdpSocket::bind("0.0.0.0:5353")).unwrap();
        let to = format!("{HOST}:8080").parse().unwrap();
        assert_eq!(exchange(&client, to, &bind(&old), PATIENCE), ip(OUTSIDE));
        scene.detach(&net, &old);
        let new = scene.container(&net, 3, &["8080:80/udp"]);
        assert_eq!(exchange(&client, to, &bind(&new), PATIENCE), ip(OUTSIDE));
    }
}
