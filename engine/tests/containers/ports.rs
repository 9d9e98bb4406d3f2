//! Published ports: how they are reached, whose they are, and what is left of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use mica_conformance::network::Namespace;

use crate::bed::{Answer, Bed, eventually, kill, once};

/// What `httpd` serves at `/page`.
const PAGE: &str = "from the image\n";

/// Starts a container that serves [`PAGE`] at these of its ports.
fn serve(bed: &Bed, name: &str, flags: &[&str], ports: &[u16]) {
    let servers: Vec<String> = ports.iter().map(|port| format!("busybox httpd -p {port} -h /srv;")).collect();
    let script = format!("{} sleep 1000", servers.concat());
    bed.ok(&[&["run", "-d", "--name", name], flags, &["busybox", "sh", "-c", &script]].concat());
}

/// What a client gets at an address, once something serves there.
fn page(at: &str) -> String {
    let at: SocketAddr = at.parse().unwrap();
    let mut answer = String::new();
    eventually(&format!("{at} answers"), || {
        answer = try_page(at).unwrap_or_default();
        !answer.is_empty()
    });
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

fn try_page(at: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_refused(at: &str) -> bool {
    try_page(at.parse().unwrap()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Does what a process of the container would.
fn inside<T: Send>(bed: &Bed, name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{}/ns/net", bed.field(name, "{{.State.Pid}}"))).unwrap();
    Namespace::of(namespace.as_fd()).unwrap().inside(work)
}

/// Where on the host a port of a container is published.
fn places(bed: &Bed, name: &str, port: &str) -> BTreeSet<SocketAddr> {
    bed.ok(&["port", name, port]).lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_published_port_is_reached_at_every_address_of_the_host() {
    for firewall in ["nft", "iptables"] {
        once(|bed| {
            let script = "busybox httpd -p 80 -h /srv; sleep 1000";
            let run = ["--firewall", firewall, "run", "-d", "--name", "web", "-p", "8080:80"];
            bed.ok(&[&run[..], &["busybox", "sh", "-c", script]].concat());
            let gateway = bed.field("web", "{{.NetworkSettings.Gateway}}");
            for at in ["127.0.0.1", "[::1]", &gateway] {
                assert_eq!(page(&format!("{at}:8080")), PAGE, "{at} by {firewall}");
            }
            let everywhere = ["0.0.0.0:8080", "[::]:8080"].map(|at| at.parse().unwrap());
            assert_eq!(places(bed, "web", "80"), BTreeSet::from(everywhere));
            bed.ok(&["rm", "-f", "web"]);
            assert!(is_refused("127.0.0.1:8080") && is_refused("[::1]:8080"), "{firewall}");
        });
    }
}

#[test]
fn containers_of_another_network_reach_what_is_published_for_others_and_nothing_else() {
    once(|bed| {
        bed.ok(&["network", "create", "other"]);
        serve(bed, "web", &["-p", "8080:80", "-p", "127.0.0.1:9090:80", "-p", "[::1]:9091:80"], &[80]);
        let address = bed.field("web", "{{.NetworkSettings.IPAddress}}");
        let gateway = bed.field("web", "{{.NetworkSettings.Gateway}}");
        assert_eq!(page("127.0.0.1:9090"), PAGE);
        bed.ok(&["run", "-d", "--name", "client", "--network", "other", "busybox", "sleep", "1000"]);
        let fetch = |at: &str| inside(bed, "client", || try_page(at.parse().unwrap()));
        assert!(fetch(&format!("{gateway}:8080")).unwrap().ends_with(PAGE));
        for closed in [format!("{gateway}:9090"), format!("{gateway}:9091"), format!("{address}:80")] {
            fetch(&closed).unwrap_err();
        }
    });
}

#[test]
fn a_port_at_one_address_is_reached_there_alone() {
    once(|bed| {
        serve(bed, "four", &["-p", "127.0.0.1:8080:80"], &[80]);
        serve(bed, "six", &["-p", "[::1]:9090:80"], &[80]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:9090")], [PAGE, PAGE]);
        assert!(is_refused("[::1]:8080") && is_refused("127.0.0.1:9090"));
        assert_eq!(places(bed, "six", "80"), BTreeSet::from(["[::1]:9090".parse().unwrap()]));
    });
}

#[test]
fn a_port_that_nobody_named_is_the_same_in_both_families() {
    once(|bed| {
        serve(bed, "web", &["-p", "80"], &[80]);
        let found: Vec<SocketAddr> = places(bed, "web", "80").into_iter().collect();
        assert_eq!((found.len(), found[0].port()), (2, found[1].port()));
        assert_eq!(page(&format!("127.0.0.1:{}", found[0].port())), PAGE);
    });
}

#[test]
fn localhost_leads_to_a_container_that_has_one_family() {
    once(|bed| {
        bed.ok(&["network", "create", "--ipv6=false", "four"]);
        serve(bed, "web", &["--network", "four", "-p", "8080:80"], &[80]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
        let text = bed.fails(125, &["run", "--network", "four", "-p", "[::]:9090:80", "busybox", "true"]);
        assert!(text.contains("no network of the container leads IPv6 to it"), "{text}");
    });
}

#[test]
fn all_that_a_container_exposes_is_published_where_it_is_asked() {
    once(|bed| {
        serve(bed, "web", &["-P", "--expose", "80", "--expose", "81-82", "-p", "8082:82"], &[80, 81, 82]);
        assert_eq!(places(bed, "web", "82").first().map(SocketAddr::port), Some(8082));
        for port in ["80", "81", "82"] {
            let at = places(bed, "web", port).first().unwrap().port();
            assert_eq!(page(&format!("127.0.0.1:{at}")), PAGE, "{port}");
        }
    });
}

#[test]
fn each_port_of_a_range_leads_to_its_own() {
    once(|bed| {
        serve(bed, "web", &["-p", "3000-3099:4000-4099"], &[4000, 4099]);
        for at in ["127.0.0.1:3000", "[::1]:3000", "127.0.0.1:3099", "[::1]:3099"] {
            assert_eq!(page(at), PAGE, "{at}");
        }
        assert!(is_refused("127.0.0.1:3050"));
        assert_eq!(bed.ok(&["port", "web"]).lines().count(), 200);
    });
}

/// Each takes two descriptors.
#[test]
fn a_thousand_ports_are_published_and_the_container_keeps_its_limit() {
    once(|bed| {
        let serve = "busybox httpd -p 3999 -h /srv; ulimit -n; sleep 1000";
        let mica = bed.command(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            "3000-3999:3000-3999",
            "busybox",
            "sh",
            "-c",
            serve,
        ]);
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -Sn 1024 && exec \"$@\"", "sh"])
            .arg(mica.get_program())
            .args(mica.get_args());
        let answer = Answer::from(command.output().unwrap());
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert_eq!([page("127.0.0.1:3999"), page("[::1]:3999")], [PAGE, PAGE]);
        assert_eq!(bed.ok(&["logs", "web"]), "1024\n");
        assert_eq!(bed.ok(&["exec", "web", "sh", "-c", "ulimit -n"]), "1024\n");
    });
}

#[test]
fn datagrams_find_their_way_and_back() {
    once(|bed| {
        bed.ok(&["run", "-d", "--name", "echo", "-p", "5353:53/udp", "busybox", "sleep", "1000"]);
        let server = inside(bed, "echo", || UdpSocket::bind("[::]:53")).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = [0; 16];
        for at in ["127.0.0.1", "::1"].map(|at| IpAddr::from_str(at).unwrap()) {
            let client = UdpSocket::bind((at, 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            client.connect((at, 5353)).unwrap();
            for text in [&b"one"[..], b"two"] {
                client.send(text).unwrap();
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], text, "{at}");
                server.send_to(b"heard", from).unwrap();
                assert_eq!(client.recv(&mut buffer).map(|length| &buffer[..length]).unwrap(), b"heard");
            }
        }
        assert!(UdpSocket::bind("0.0.0.0:5353").is_err());
        TcpListener::bind("0.0.0.0:5353").unwrap();
    });
}

#[test]
fn a_taken_port_is_told_with_who_has_it_and_nothing_is_left() {
    once(|bed| {
        serve(bed, "web", &["-p", "8080:80"], &[80]);
        let _server = TcpListener::bind("127.0.0.1:9090").unwrap();
        let pid = std::process::id().to_string();
        for (port, expected) in [
            ("8080:81", ["0.0.0.0:8080/tcp failed: port is already allocated", "container 'web'"]),
            (
                "127.0.0.1:8080:81",
                ["127.0.0.1:8080/tcp failed: port is already allocated", "container 'web'"],
            ),
            ("9090:80", ["0.0.0.0:9090/tcp failed: address already in use", &pid]),
        ] {
            let text = bed.fails(125, &["run", "-d", "--name", "late", "-p", port, "busybox", "true"]);
            assert!(expected.iter().all(|part| text.contains(part)), "{text}");
            assert_eq!(bed.field("late", "{{.State.Status}}"), "created");
            bed.ok(&["rm", "late"]);
        }
        serve(bed, "next", &["-p", "8080-8081:80"], &[80]);
        assert_eq!(places(bed, "next", "80").first().map(SocketAddr::port), Some(8081));
        assert_eq!(page("127.0.0.1:8080"), PAGE);
    });
}

#[test]
fn a_container_that_is_started_again_gets_its_ports_again() {
    once(|bed| {
        serve(bed, "web", &["-p", "8080:80"], &[80]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
        bed.ok(&["restart", "-t", "0", "web"]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
    });
}

#[test]
fn a_port_is_free_again_however_its_container_ended() {
    once(|bed| {
        serve(bed, "web", &["-p", "8080:80"], &[80]);
        kill(bed.supervisor("web"));
        serve(bed, "next", &["-p", "8080:81"], &[81]);
        assert_eq!(bed.field("web", "{{.State.Status}}"), "exited");
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
    });
}

#[test]
fn a_container_that_has_only_internal_networks_publishes_nothing() {
    once(|bed| {
        bed.ok(&["network", "create", "--internal", "inside"]);
        bed.ok(&["network", "create", "open"]);
        serve(bed, "web", &["--network", "inside", "-p", "8080:80"], &[80]);
        assert_eq!(bed.ok(&["port", "web"]), "");
        assert!(is_refused("127.0.0.1:8080"));
        bed.ok(&["network", "connect", "open", "web"]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
        bed.ok(&["network", "disconnect", "open", "web"]);
        assert!(is_refused("127.0.0.1:8080") && is_refused("[::1]:8080"));
        drop(TcpListener::bind("[::]:8080").unwrap());
    });
}

#[test]
fn ports_follow_the_container_to_another_gateway() {
    once(|bed| {
        bed.ok(&["network", "create", "one"]);
        bed.ok(&["network", "create", "two"]);
        serve(bed, "web", &["--network", "one", "-p", "8080:80"], &[80]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
        bed.ok(&["network", "connect", "two", "web"]);
        bed.ok(&["network", "disconnect", "one", "web"]);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
    });
}

#[test]
fn a_port_without_an_address_is_published_where_its_network_says() {
    const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
    once(|bed| {
        for (value, expected) in [("here", "network option 'binding' is 'here'"), ("224.0.0.1", "no host's")]
        {
            let option = format!("{BINDING}={value}");
            let text = bed.fails(1, &["network", "create", "-o", &option, "home"]);
            assert!(text.contains(expected), "{text}");
        }
        bed.ok(&["network", "create", "-o", &format!("{BINDING}=127.0.0.1"), "home"]);
        bed.ok(&["network", "create", "open"]);
        let here = BTreeSet::from(["127.0.0.1:8080".parse().unwrap()]);
        let everywhere = BTreeSet::from(["0.0.0.0:8080", "[::]:8080"].map(|at| at.parse().unwrap()));
        serve(bed, "web", &["--network", "home", "-p", "8080:80", "-p", "0.0.0.0:9090:80"], &[80]);
        let host = bed.field("web", "{{.NetworkSettings.Networks.home.Gateway}}");
        assert_eq!(places(bed, "web", "80").len(), 2);
        assert!(places(bed, "web", "80").is_superset(&here));
        assert_eq!([page("127.0.0.1:8080"), page(&format!("{host}:9090"))], [PAGE, PAGE]);
        assert!(is_refused("[::1]:8080") && is_refused(&format!("{host}:8080")));
        bed.ok(&["rm", "-f", "web"]);

        // Another gateway, another address.
        serve(bed, "web", &["--network", "open", "-p", "8080:80"], &[80]);
        assert_eq!(places(bed, "web", "80"), everywhere);
        bed.ok(&["network", "connect", "--gw-priority", "1", "home", "web"]);
        assert_eq!(places(bed, "web", "80"), here);
        assert_eq!(page("127.0.0.1:8080"), PAGE);
        assert!(is_refused("[::1]:8080") && is_refused(&format!("{host}:8080")));
        bed.ok(&["network", "disconnect", "home", "web"]);
        assert_eq!(places(bed, "web", "80"), everywhere);
        assert_eq!([page("127.0.0.1:8080"), page("[::1]:8080")], [PAGE, PAGE]);
    });
}
