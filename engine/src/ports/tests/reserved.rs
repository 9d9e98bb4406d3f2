//! What is reserved nobody else gets.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use super::*;

/// The addresses of a host that has only `lo`.
const ALL: [&str; 4] = ["0.0.0.0", "127.0.0.1", "[::]", "[::1]"];

/// As a server does: it would share the port with connections that are closed.
fn serve_tcp(at: &str) -> io::Result<TcpListener> {
    TcpListener::bind(at)
}

/// As a server of multicast does: it would share the port with its like.
fn share_udp(at: &str) -> io::Result<()> {
    let at: SocketAddr = at.parse().unwrap();
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(bind(&socket, &at)?)
}

fn is_taken<T>(bound: io::Result<T>) -> bool {
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

#[test]
fn a_reserved_port_is_nobody_elses_until_it_is_given_back() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80", "9090:90/udp"]).unwrap();
        assert_eq!(texts(reserved.ports()), ["8080:80/tcp", "9090:90/udp"]);
        for at in ALL {
            assert!(is_taken(serve_tcp(&format!("{at}:8080"))), "{at}");
            assert!(is_taken(UdpSocket::bind(format!("{at}:9090"))), "{at}");
            assert!(is_taken(share_udp(&format!("{at}:9090"))), "{at}");
        }
        drop(reserved);
        for at in ALL {
            serve_tcp(&format!("{at}:8080")).unwrap();
            UdpSocket::bind(format!("{at}:9090")).unwrap();
        }
    });
}

#[test]
fn a_port_at_one_address_is_free_at_another() {
    on_a_host(|| {
        let _held = reserve(&["127.0.0.1:8080:80"]).unwrap();
        assert!(is_taken(serve_tcp("127.0.0.1:8080")));
        assert!(is_taken(serve_tcp("0.0.0.0:8080")));
        serve_tcp("127.0.0.2:8080").unwrap();
        serve_tcp("[::1]:8080").unwrap();
    });
}

#[test]
fn nothing_listens_where_the_kernel_leads_to_the_container() {
    on_a_host(|| {
        let _held = reserve(&["8080:80"]).unwrap();
        let refused = TcpStream::connect("127.0.0.1:8080").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        TcpStream::connect("[::1]:8080").unwrap();
    });
}

#[test]
fn the_process_that_has_a_port_is_named() {
    on_a_host(|| {
        let pid = std::process::id();
        for (server, wish) in [
            ("0.0.0.0:8080", "127.0.0.1:8080:80"),
            ("127.0.0.1:8080", "8080:80"),
            ("[::1]:8080", "8080:80"),
            ("[::]:8080", "0.0.0.0:8080:80"),
            ("[::1]:8080", "8070-8089:80-99"),
        ] {
            let _server = serve_tcp(server).unwrap();
            let text = reserve(&[wish]).unwrap_err().to_string();
            assert!(text.contains(":8080/tcp failed: address already in use"), "{server} {wish}: {text}");
            assert!(text.contains(&format!("process {pid} (")), "{server} {wish}: {text}");
        }
        let _server = UdpSocket::bind("[::1]:9090").unwrap();
        let text = reserve(&["9090:90/udp"]).unwrap_err().to_string();
        assert!(text.contains(&format!("process {pid} (")), "{text}");
    });
}

#[test]
fn the_container_that_has_a_port_is_named_whether_it_binds_it_or_not() {
    on_a_host(|| {
        let who = |asked: &Port| {
            let has: Port = "8080:80".parse().unwrap();
            asked.overlaps(&has).then(|| "container 'web'".to_owned())
        };
        let not_bound = reserve_beside(&["127.0.0.1:8080:81"], &who).unwrap_err().to_string();
        assert!(
            not_bound.contains("127.0.0.1:8080/tcp failed: port is already allocated: container 'web'"),
            "{not_bound}"
        );
        let _held = reserve(&["8080:80"]).unwrap();
        assert_eq!(reserve_beside(&["127.0.0.1:8080:81"], &who).unwrap_err().to_string(), not_bound);
        let row = reserve_beside(&["8070-8089:70-89"], &who).unwrap_err().to_string();
        assert!(row.contains("0.0.0.0:8080/tcp failed: port is already allocated"), "{row}");
        let reserved = reserve_beside(&["8080-8081:80"], &who).unwrap();
        assert_eq!(texts(reserved.ports()), ["8081:80/tcp"]);
    });
}

#[test]
fn one_of_sctp_is_kept_by_its_record_alone() {
    on_a_host(|| {
        let reserved = reserve(&["7:7/sctp"]).unwrap();
        assert_eq!(texts(reserved.ports()), ["7:7/sctp"]);
        let who = |_: &Port| Some("container 'web'".to_owned());
        assert!(reserve_beside(&["7:8/sctp"], &who).unwrap_err().to_string().contains("container 'web'"));
        let text = reserve(&["[::1]:7:7/sctp"]).unwrap_err().to_string();
        assert!(text.contains("SCTP"), "{text}");
    });
}

#[test]
fn a_port_that_nobody_named_is_one_number_for_both_families() {
    on_a_host(|| {
        set("ipv4/ip_local_port_range", "40000 40003").unwrap();
        set("ipv4/ip_local_reserved_ports", "40001").unwrap();
        let _four = serve_tcp("127.0.0.1:40000").unwrap();
        let _six = serve_tcp("[::1]:40002").unwrap();
        let reserved = reserve(&["80"]).unwrap();
        assert_eq!(texts(reserved.ports()), ["40003:80/tcp"]);
        let text = reserve(&["80"]).unwrap_err().to_string();
        assert!(text.contains("all ports are already allocated"), "{text}");
    });
}

#[test]
fn a_failure_keeps_nothing() {
    on_a_host(|| {
        let _server = serve_tcp("127.0.0.1:8090").unwrap();
        reserve(&["8080:80", "8085-8095:85-95"]).unwrap_err();
        for port in (8080..=8095).filter(|port| *port != 8090) {
            serve_tcp(&format!("[::]:{port}")).unwrap();
        }
    });
}

#[test]
fn the_closed_connections_of_a_server_do_not_keep_its_port() {
    on_a_host(|| {
        for at in ["127.0.0.1:8080", "[::1]:8080"] {
            let server = serve_tcp(at).unwrap();
            let mut client = TcpStream::connect(at).unwrap();
            // The side that closes first is the one that remembers.
            drop(server.accept().unwrap());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        let reserved = reserve(&["8080:80"]).unwrap();
        assert!(is_taken(serve_tcp("127.0.0.1:8080")));
        assert!(is_taken(serve_tcp("[::1]:8080")));
        drop(reserved);
    });
}

#[test]
fn an_address_that_the_host_does_not_have_is_refused() {
    on_a_host(|| {
        for wish in ["192.0.2.1:80:80", "[fd00::9]:80:80/udp", "[fe80::1]:80:80"] {
            let text = reserve(&[wish]).unwrap_err().to_string();
            assert!(text.contains("the host has no such address"), "{text}");
        }
    });
}

#[test]
fn a_host_without_ipv6_publishes_in_ipv4() {
    on_a_host(|| {
        set("ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let reserved = reserve(&["8080:80", "9090:90/udp"]).unwrap();
        assert_eq!(reserved.ports().len(), 2);
        assert!(reserved.listeners.is_empty());
        assert!(
            reserve(&["[::1]:8081:80"]).unwrap_err().to_string().contains("the host has no such address")
        );
    });
}

#[test]
fn an_address_from_which_nothing_leads_to_the_container_is_refused() {
    on_a_host(|| {
        let four = Families { v4: true, v6: false };
        let text = Reserved::reserve(&parsed(&["[::]:80:80"]), four, &|_| None).unwrap_err().to_string();
        assert!(text.contains("no network of the container leads IPv6 to it"), "{text}");
        let reserved = Reserved::reserve(&parsed(&["[::1]:80:80", "81:81"]), four, &|_| None).unwrap();
        assert_eq!(
            [texts(reserved.loopback6()), texts(reserved.ports())],
            [["[::1]:80:80/tcp"], ["81:81/tcp"]]
        );
        let none = Reserved::reserve(&parsed(&["82:82"]), Families::NONE, &|_| None).unwrap();
        assert!(none.ports().is_empty());
        serve_tcp("0.0.0.0:82").unwrap();
    });
}

#[test]
fn a_wish_that_is_said_twice_is_one() {
    on_a_host(|| {
        let reserved = reserve(&["8080:80", "8080:80"]).unwrap();
        assert_eq!(texts(reserved.ports()), ["8080:80/tcp"]);
        let text = reserve(&["8081:80", "[::1]:8081:81"]).unwrap_err().to_string();
        assert!(text.contains("'8081:80/tcp' and '[::1]:8081:81/tcp'"), "{text}");
    });
}

#[test]
fn a_thousand_ports_are_kept_at_once() {
    on_a_host(|| {
        let reserved = reserve(&["3000-3999:3000-3999"]).unwrap();
        assert_eq!(reserved.listeners.len(), 1000);
        assert!(is_taken(serve_tcp("127.0.0.1:3999")));
        let text = reserve(&["1-65535:1-65535/udp"]).unwrap_err().to_string();
        assert!(text.contains("takes 131070 descriptors"), "{text}");
    });
}

#[test]
fn a_port_that_something_is_bound_to_and_does_not_listen_at_is_taken_all_the_same() {
    on_a_host(|| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &"127.0.0.1:8080".parse::<SocketAddr>().unwrap()).unwrap();
        assert!(reserve(&["8080:80"]).is_err());
        listen(&socket, 1).unwrap();
    });
}
