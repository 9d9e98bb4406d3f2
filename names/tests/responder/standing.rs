//! Where the server stands in the container, and that it is gone afterwards.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use mica_names::{ADDRESS, Responder};

use crate::client::{addresses, ask, ask_by_tcp, query, receive, socket};
use crate::scene::{Namespace, Served, on_a_host, run, view};

const WEB: &[(&str, &str)] = &[("web", "172.30.0.2")];

#[test]
fn a_container_finds_others_by_udp_and_by_tcp() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("WEB.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn a_container_serves_port_53_of_all_its_addresses_itself() {
    on_a_host(|container| {
        let responder = Responder::start(container.as_fd(), view(WEB, &[])).unwrap();
        assert!(responder.holds_port().is_none());
        let _served = Served::serve(responder);
        container.enter(|| {
            let (_tcp4, udp4) =
                (TcpListener::bind("0.0.0.0:53").unwrap(), UdpSocket::bind("0.0.0.0:53").unwrap());
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
            // Its own server answers at its other addresses.
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"mine", "127.0.0.1:53").unwrap();
            let mut buffer = [0; 16];
            assert_eq!(udp4.recv(&mut buffer).unwrap(), 4);
            drop(udp4);
            UdpSocket::bind("[::]:53").unwrap();
        });
    });
}

#[test]
fn a_container_that_flushes_its_rules_keeps_its_name_server() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            run("nft add table ip its-own; nft flush ruleset");
            run("! nft delete table ip mica-names");
            assert!(!run("nft list tables").contains("its-own"));
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn a_container_that_tracks_connections_and_drops_strange_ones_keeps_its_name_server() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            run("nft -f - <<'END'
table ip firewall {
    chain input {
        type filter hook input priority 0; policy drop;
        ct state invalid drop
        iif lo accept
    }
}
END");
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn without_its_table_it_holds_port_53_and_says_why() {
    on_a_host(|container| {
        let mut other = container.enter(|| {
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        });
        let orders = b"add table ip mica-names { flags owner; }\nlist tables\n";
        other.stdin.as_mut().unwrap().write_all(orders).unwrap();
        let mut told = BufReader::new(other.stdout.take().unwrap()).lines();
        assert!(told.any(|line| line.unwrap().ends_with("table ip mica-names")));
        let responder = Responder::start(container.as_fd(), view(WEB, &[])).unwrap();
        let why = responder.holds_port().unwrap().to_string();
        assert!(why.starts_with("redirect port 53 by nftables: "), "{why}");
        let _served = Served::serve(responder);
        container.enter(|| {
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
            assert_eq!(UdpSocket::bind("0.0.0.0:53").unwrap_err().kind(), ErrorKind::AddrInUse);
            assert_eq!(TcpListener::bind("0.0.0.0:53").unwrap_err().kind(), ErrorKind::AddrInUse);
        });
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
    });
}

#[test]
fn another_takes_the_place_of_one_that_left() {
    on_a_host(|container| {
        Responder::start(container.as_fd(), view(WEB, &[])).unwrap().leave();
        let responder = Responder::start(container.as_fd(), view(WEB, &[])).unwrap();
        assert!(responder.holds_port().is_none());
        let _served = Served::serve(responder);
        container.enter(|| {
            assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]);
            assert_eq!(addresses(&ask_by_tcp("web.")), ["172.30.0.2"]);
        });
    });
}

#[test]
fn it_serves_a_namespace_of_another_user_namespace() {
    on_a_host(|_| {
        let script = "ip link set lo up; echo made; read wait";
        let mut owner = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-ec", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut made = [0; 5];
        owner.stdout.take().unwrap().read_exact(&mut made).unwrap();
        let container = Namespace::of(&format!("/proc/{}/ns/net", owner.id()));
        // It ends when its input does; the namespace stays.
        assert!(!owner.wait().unwrap().success());
        let responder = Responder::start(container.as_fd(), view(WEB, &[])).unwrap();
        assert!(responder.holds_port().is_none());
        let _served = Served::serve(responder);
        container.enter(|| assert_eq!(addresses(&ask("web.")), ["172.30.0.2"]));
    });
}

#[test]
fn whoever_starts_it_stays_in_its_own_namespace() {
    on_a_host(|container| {
        let place = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = place();
        let _served = Served::start(container, view(WEB, &[]));
        assert_eq!(place(), before);
        assert_ne!(container.enter(place), before);
    });
}

#[test]
fn a_namespace_without_lo_is_refused_and_nothing_is_left() {
    on_a_host(|container| {
        container.enter(|| run("ip link set lo down && ip address flush dev lo"));
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let text = Responder::start(container.as_fd(), view(WEB, &[])).unwrap_err().to_string();
        assert!(text.contains("listen at 127.0.0.11 in the container (its lo must be up)"), "{text}");
        assert_eq!(open(), before);
    });
}

#[test]
fn what_is_dropped_leaves_no_rule_socket_or_descriptor() {
    on_a_host(|container| {
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        let responder = Responder::start(container.as_fd(), view(WEB, &[])).unwrap();
        container.enter(|| {
            assert!(run("nft list tables").contains("mica-names"));
            let socket = socket();
            socket.send(&query("web.").to_vec().unwrap()).unwrap();
        });
        drop(responder);
        assert_eq!(open(), before);
        container.enter(|| {
            assert_eq!(run("nft list tables"), "");
            assert_eq!(run("ss -Hlnut"), "");
            // Nobody is there, which the kernel tells at once.
            let socket = socket();
            socket.send(b"anybody").unwrap();
            assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        });
    });
}

#[test]
fn a_new_view_counts_from_the_next_query_on() {
    on_a_host(|container| {
        let mut served = Served::start(container, view(WEB, &[]));
        container.enter(|| assert_eq!(addresses(&ask("db.")), [""; 0]));
        served.show(view(&[("db", "172.30.0.3")], &[]));
        container.enter(|| {
            assert_eq!(addresses(&ask("db.")), ["172.30.0.3"]);
            assert_eq!(addresses(&ask("web.")), [""; 0]);
        });
    });
}

#[test]
fn the_c_library_of_a_container_finds_names_through_it() {
    on_a_host(|container| {
        let _served = Served::start(container, view(&[("db", "172.30.0.3")], &[]));
        let directory = tempfile::tempdir().unwrap();
        let host = mica_names::Resolv::parse("nameserver 127.0.0.53\nsearch example.org\n");
        let conf = directory.path().join("resolv.conf");
        fs::write(&conf, host.beside_responder(&mica_names::Wishes::default())).unwrap();
        let bound = format!("unshare -m sh -ec 'mount --bind {} /etc/resolv.conf;", conf.display());
        // Without an address of its own it would not ask for one (AI_ADDRCONFIG).
        let eth0 = "ip link add eth0 type veth; ip link set eth0 up; ip address add 172.30.0.2/24 dev eth0";
        container.enter(|| run(eth0));
        let told = container.enter(|| run(&format!("{bound} getent ahostsv4 db; getent hosts 172.30.0.3'")));
        assert!(told.starts_with("172.30.0.3      STREAM db\n"), "{told}");
        assert!(told.trim_end().ends_with("172.30.0.3      db"), "{told}");
    });
}

#[test]
fn two_containers_have_a_server_each() {
    on_a_host(|container| {
        let other = Namespace::new();
        let _first = Served::start(container, view(WEB, &[]));
        let _second = Served::start(&other, view(&[("web", "172.31.0.2")], &[]));
        assert_eq!(container.enter(|| addresses(&ask("web."))), ["172.30.0.2"]);
        assert_eq!(other.enter(|| addresses(&ask("web."))), ["172.31.0.2"]);
    });
}

#[test]
fn queries_that_come_at_once_are_all_answered() {
    on_a_host(|container| {
        let _served = Served::start(container, view(WEB, &[]));
        container.enter(|| {
            let socket = socket();
            for _ in 0..200 {
                socket.send(&query("web.").to_vec().unwrap()).unwrap();
            }
            for _ in 0..200 {
                assert_eq!(addresses(&receive(&socket)), ["172.30.0.2"]);
            }
            assert_eq!(socket.peer_addr().unwrap().ip(), ADDRESS);
        });
    });
}
