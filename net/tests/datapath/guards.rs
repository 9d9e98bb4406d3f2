//! What does not get through, and that it would without its rule.

use std::net::SocketAddr;

use crate::lift::{Guard, lift};
use crate::namespace::Namespace;
use crate::scene::{ALSO, Backend, Container, HOST, HOST6, Net, OUTSIDE, Scene};
use crate::traffic::Server;
use crate::under_both;

/// Sends what is meant for 127.0.0.1 to another machine, and takes its answers.
fn take_loopback_for_a_neighbour(machine: &Namespace, link: &str, via: &str) {
    machine.set(&format!("ipv4/conf/{link}/route_localnet"), "1");
    // With an own address of that range the kernel takes no answer from it.
    machine.ip("addr del 127.0.0.1/8 dev lo");
    machine.ip(&format!("route add 127.0.0.1/32 via {via} dev {link}"));
}

/// Teaches the machine outside where a network is.
fn route_to(scene: &Scene, net: &Net) {
    scene.outside.ip(&format!("route add {} via {HOST}", net.subnets().0));
    scene.outside.ip(&format!("route add {} via {HOST6}", net.subnets().1));
}

fn web(container: &Container) -> Server {
    Server::new(&container.machine, 80)
}

under_both! {
    /// CVE-2020-8558.
    fn a_container_does_not_reach_what_listens_on_the_hosts_loopback(scene: Scene) {
        let net = scene.network(&[]);
        let container = scene.container(&net, 2, &[]);
        let private: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let server = Server::at(&scene.host, private);
        take_loopback_for_a_neighbour(&container.machine, "eth0", &net.gateway().0);
        assert!(server.keeps_out(&container.machine, ("127.0.0.1", 9000)));
        lift(&scene, &[Guard::Loopback]);
        assert!(server.tcp(&container.machine, ("127.0.0.1", 9000)).is_some());
    }

    /// moby#41872.
    fn a_port_at_localhost_is_not_reached_by_a_neighbour_of_the_host(scene: Scene) {
        let net = scene.network(&[]);
        let server = web(&scene.container(&net, 2, &["127.0.0.1:8090:80", "127.0.0.1:8090:80/udp"]));
        assert!(server.tcp(&scene.host, ("127.0.0.1", 8090)).is_some());
        assert!(server.udp(&scene.host, ("127.0.0.1", 8090)).is_some());
        take_loopback_for_a_neighbour(&scene.outside, "eth0", HOST);
        assert!(server.keeps_out(&scene.outside, ("127.0.0.1", 8090)));
        for elsewhere in [HOST, ALSO, HOST6] {
            assert!(server.keeps_out(&scene.outside, (elsewhere, 8090)), "{elsewhere}");
        }
        lift(&scene, &[Guard::Loopback]);
        assert!(server.tcp(&scene.outside, ("127.0.0.1", 8090)).is_some());
    }

    fn a_containers_own_address_is_not_reached_from_outside(scene: Scene) {
        let net = scene.network(&[]);
        let container = scene.container(&net, 2, &["8080:80"]);
        let server = web(&container);
        route_to(&scene, &net);
        for to in [&container.v4, &container.v6] {
            assert!(server.keeps_out(&scene.outside, (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Entering]);
        for to in [&container.v4, &container.v6] {
            assert!(server.tcp(&scene.outside, (to, 80)).is_some(), "{to}");
        }
    }

    fn without_masquerade_a_containers_own_address_is_not_reached_either(scene: Scene) {
        let net = scene.network(&[("masquerade", "false")]);
        let container = scene.container(&net, 2, &[]);
        let server = web(&container);
        route_to(&scene, &net);
        for to in [&container.v4, &container.v6] {
            assert!(server.keeps_out(&scene.outside, (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Entering]);
        for to in [&container.v4, &container.v6] {
            assert!(server.tcp(&scene.outside, (to, 80)).is_some(), "{to}");
        }
    }

    fn networks_do_not_reach_each_other(scene: Scene) {
        let (net, other) = (scene.network(&[]), scene.network(&[]));
        let (one, far) = (scene.container(&net, 2, &[]), scene.container(&other, 2, &[]));
        let server = web(&one);
        for to in [&one.v4, &one.v6] {
            assert!(server.keeps_out(&far.machine, (to, 80)), "{to}");
        }
        lift(&scene, &[Guard::Entering]);
        for to in [&one.v4, &one.v6] {
            assert!(server.tcp(&far.machine, (to, 80)).is_some(), "{to}");
        }
    }

    fn an_internal_network_is_closed_but_to_the_host(scene: Scene) {
        let (net, other) = (scene.internal(), scene.network(&[]));
        let inside = scene.container(&net, 2, &[]);
        let published = scene.container(&other, 2, &["8080:80", "8080:80/udp"]);
        let (server, world, neighbour) = (web(&inside), Server::new(&scene.outside, 80), web(&published));
        route_to(&scene, &net);
        // Its own root may send where it likes.
        inside.machine.ip(&format!("route add default via {}", net.gateway().0));
        assert!(server.tcp(&scene.host, (&inside.v4, 80)).is_some());
        assert!(server.keeps_out(&scene.outside, (&inside.v4, 80)));
        assert!(world.keeps_out(&inside.machine, (OUTSIDE, 80)));
        assert!(neighbour.keeps_out(&inside.machine, (HOST, 8080)));
        lift(&scene, &[Guard::Entering, Guard::Leaving]);
        assert!(server.tcp(&scene.outside, (&inside.v4, 80)).is_some());
        assert!(world.tcp(&inside.machine, (OUTSIDE, 80)).is_some());
    }

    fn without_icc_neighbours_are_apart_and_published_ports_are_not(scene: Scene) {
        let net = scene.network(&[("icc", "false")]);
        let (one, two) = (scene.container(&net, 2, &["8080:80", "8080:80/udp"]), scene.container(&net, 3, &[]));
        let server = web(&one);
        for to in [&one.v4, &one.v6] {
            assert!(server.keeps_out(&two.machine, (to, 80)), "{to}");
        }
        // By way of the host, to which alone the bridge lets it speak.
        for (container, other) in [(&one, &two), (&two, &one)] {
            container.machine.ip(&format!("route add {}/32 via {} dev eth0", other.v4, net.gateway().0));
        }
        assert!(server.keeps_out(&two.machine, (&one.v4, 80)));
        assert!(server.tcp(&scene.outside, (HOST, 8080)).is_some());
        assert!(server.tcp(&scene.host, ("127.0.0.1", 8080)).is_some());
        // Else br_netfilter turns what is led to a port of the same bridge around within it, where the flag holds it.
        scene.host.set("bridge/bridge-nf-call-iptables", "0");
        assert!(server.tcp(&two.machine, (HOST, 8080)).is_some());
        assert!(server.tcp(&one.machine, (HOST, 8080)).is_some());
        lift(&scene, &[Guard::Within]);
        assert!(server.tcp(&two.machine, (&one.v4, 80)).is_some());
    }

    fn a_host_that_forwards_for_containers_forwards_for_nobody_else(scene: Scene) {
        let beyond = Namespace::new();
        scene.host.ip(&format!("link add uplink1 type veth peer name eth0 netns {}", beyond.path()));
        for (machine, link, address) in [(&scene.host, "uplink1", "203.0.113.1"), (&beyond, "eth0", "203.0.113.2")] {
            machine.ip(&format!("link set {link} up"));
            machine.ip(&format!("addr add {address}/24 dev {link}"));
        }
        beyond.ip("route add default via 203.0.113.1");
        scene.outside.ip(&format!("route add 203.0.113.0/24 via {HOST}"));
        let server = Server::new(&beyond, 80);
        let net = scene.network(&[]);
        let container = scene.container(&net, 2, &[]);
        assert!(server.tcp(&container.machine, ("203.0.113.2", 80)).is_some(), "containers are forwarded");
        assert!(server.keeps_out(&scene.outside, ("203.0.113.2", 80)));
        lift(&scene, &[Guard::Transit]);
        assert!(server.tcp(&scene.outside, ("203.0.113.2", 80)).is_some());
    }

    fn rules_that_somebody_flushed_are_back_after_up_and_update(scene: Scene) {
        let net = scene.network(&[]);
        let mut container = scene.container(&net, 2, &["8080:80"]);
        let server = web(&container);
        assert!(server.tcp(&scene.outside, (HOST, 8080)).is_some());
        flush(&scene);
        assert!(server.keeps_out(&scene.outside, (HOST, 8080)));
        scene.driver(|driver| driver.up(&net.record)).unwrap();
        scene.publish(&net, &mut container, &["8080:80"]);
        assert!(server.tcp(&scene.outside, (HOST, 8080)).is_some());
        route_to(&scene, &net);
        assert!(server.keeps_out(&scene.outside, (&container.v4, 80)));
    }

    fn a_host_whose_policy_drops_what_it_forwards_is_opened_or_named(scene: Scene) {
        for program in ["iptables", "ip6tables"] {
            scene.host.program(program, &["-P", "FORWARD", "DROP"]);
        }
        match scene.try_network(false, &[]) {
            Ok(net) => {
                let container = scene.container(&net, 2, &["8080:80"]);
                let (server, world) = (web(&container), Server::new(&scene.outside, 80));
                assert!(server.tcp(&scene.outside, (HOST, 8080)).is_some());
                assert!(world.tcp(&container.machine, (OUTSIDE, 80)).is_some());
                let neighbour = scene.container(&net, 3, &[]);
                assert!(server.tcp(&neighbour.machine, (&container.v4, 80)).is_some());
            }
            Err(err) => {
                assert!(matches!(err, mica_core::Error::Unavailable { .. }), "{err}");
                assert!(err.to_string().contains("FORWARD"), "{err}");
            }
        }
    }

    fn an_accept_of_another_firewall_opens_no_network(scene: Scene) {
        let (net, other) = (scene.network(&[]), scene.network(&[("masquerade", "false")]));
        for program in ["iptables", "ip6tables"] {
            scene.host.program(program, &["-I", "FORWARD", "-j", "ACCEPT"]);
        }
        let (one, far) = (scene.container(&net, 2, &[]), scene.container(&other, 2, &[]));
        let (server, there) = (web(&one), web(&far));
        for (to, back) in [(&one.v4, &far.v4), (&one.v6, &far.v6)] {
            assert!(server.keeps_out(&far.machine, (to, 80)), "{to}");
            assert!(there.keeps_out(&one.machine, (back, 80)), "{back}");
        }
    }

    fn a_rule_of_the_hosts_owner_that_drops_everything_is_named_and_kept(scene: Scene) {
        scene.host.program("iptables", &["-A", "FORWARD", "-j", "DROP"]);
        let err = scene.try_network(false, &[]).err().expect("nothing is forwarded");
        assert!(matches!(err, mica_core::Error::Unavailable { .. }), "{err}");
        assert!(err.to_string().contains("FORWARD"), "{err}");
        let rules = scene.host.program("iptables", &["-S", "FORWARD"]);
        assert!(rules.contains("-A FORWARD -j DROP"), "{rules}");
    }
}

/// What somebody does who starts a firewall of their own from nothing.
fn flush(scene: &Scene) {
    match scene.backend {
        Backend::Nft => {
            scene.host.program("nft", &["flush", "ruleset"]);
        }
        Backend::Iptables => {
            for program in ["iptables", "ip6tables"] {
                for table in ["raw", "mangle", "filter", "nat"] {
                    scene.host.program(program, &["-t", table, "-F"]);
                    scene.host.program(program, &["-t", table, "-X"]);
                }
            }
        }
    }
}
