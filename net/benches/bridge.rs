//! What an endpoint of a bridge costs inside one process, under each firewall, beside the least that the kernel takes.
//!
//! Needs root. Hosts and containers are network namespaces, and nothing leaves them.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mica_conformance::network::{Namespace, kernel};
use mica_core::OptionMap;
use mica_core::network::{
    Address, Attachment, Endpoint, EndpointId, Families, Network, NetworkDriver, NetworkId, OwnerId, Pool,
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

const FIREWALLS: [&str; 3] = ["nft", "iptables", "none"];
/// Addresses are had by turns, so that none is had again before its last namespace is gone.
const ADDRESSES: u32 = 4000;

/// This thread's own host.
fn host() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    kernel::set_up("lo", true).unwrap();
}

fn open(firewall: &str, dir: &Path) -> Box<dyn NetworkDriver> {
    let settings = OptionMap::from([("firewall".to_owned(), firewall.to_owned())]);
    (mica_net::BRIDGE.open)(OwnerId::from_bytes([7; 8]), dir, &settings).unwrap()
}

fn network(driver: &dyn NetworkDriver) -> Network {
    let pool = |subnet: &str| Pool {
        subnet: subnet.parse().unwrap(),
        gateway: None,
        range: None,
        reserved: Vec::new(),
    };
    let pools = vec![pool("10.101.0.0/20"), pool("fd00:101::/64")];
    let net = driver.plan(Network { pools, ..Network::unrecorded(NetworkId::from_bytes([1; 16])) }).unwrap();
    driver.up(&net).unwrap();
    net
}

fn addresses(number: u32) -> [Address; 2] {
    let host = 2 + number % ADDRESSES;
    let v4 = format!("10.101.{}.{}/20", host / 256, host % 256);
    [v4, format!("fd00:101::{host:x}/64")].map(|address| address.parse().unwrap())
}

fn endpoint(number: u32, ports: &[&str]) -> Endpoint {
    let spread = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&spread);
    Endpoint {
        addresses: addresses(number).into_iter().map(Address::ip).collect(),
        gateway: Families { v4: true, v6: true },
        ports: ports.iter().map(|port| port.parse().unwrap()).collect::<Vec<_>>(),
        ..Endpoint::unrecorded(EndpointId::from_bytes(id))
    }
}

/// Times one part of what is done so often, each time with a number that was not had before.
fn timed(count: u64, work: impl FnMut(u32) -> Duration) -> Duration {
    static NEXT: AtomicU32 = AtomicU32::new(100);
    (0..count).map(|_| NEXT.fetch_add(1, Ordering::Relaxed)).map(work).sum()
}

fn attach(c: &mut Criterion) {
    host();
    let mut group = c.benchmark_group("attach");
    let dir = tempfile::tempdir().unwrap();
    for firewall in FIREWALLS {
        let driver = open(firewall, dir.path());
        let net = network(&*driver);
        group.bench_function(firewall, |b| {
            b.iter_custom(|count| {
                timed(count, |number| {
                    let (container, ep) = (Namespace::new().unwrap(), endpoint(number, &[]));
                    let started = Instant::now();
                    let was = driver.attach(&net, &ep, container.as_fd()).unwrap();
                    let took = started.elapsed();
                    drop(container);
                    driver.detach(&net, &ep, Some(&was), None).unwrap();
                    took
                })
            });
        });
        driver.down(&net).unwrap();
        driver.restore().unwrap();
    }
    by_hand(&mut group);
}

/// Links, addresses and routes, and nothing looked at, guarded or told.
fn by_hand(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let home = Namespace::current().unwrap();
    kernel::add_bridge("bridge0").unwrap();
    kernel::set_up("bridge0", true).unwrap();
    let bridge = kernel::link("bridge0").unwrap().unwrap().index;
    group.bench_function("by hand", |b| {
        b.iter_custom(|count| {
            timed(count, |number| {
                let container = Namespace::new().unwrap();
                let name = format!("hand{number}");
                let started = Instant::now();
                let peer = LinkUnspec::new_with_index(2)
                    .append_extra_attribute(LinkAttribute::IfName("eth0".to_owned()))
                    .append_extra_attribute(LinkAttribute::NumTxQueues(1))
                    .append_extra_attribute(LinkAttribute::NumRxQueues(1))
                    .setns_by_fd(container.as_fd().as_raw_fd())
                    .build();
                let pair = LinkVeth::new(&name, "eth0")
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                    .controller(bridge)
                    .append_extra_attribute(LinkAttribute::NumTxQueues(1))
                    .append_extra_attribute(LinkAttribute::NumRxQueues(1))
                    .up()
                    .build();
                tell(&connect(), vec![Message::NewLink(pair)]);
                setns(container.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                let inside = connect();
                setns(home.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                tell(&inside, settled(number));
                started.elapsed()
            })
        });
    });
}

fn settled(number: u32) -> Vec<Message> {
    let mut messages = vec![Message::SetLink(LinkUnspec::new_with_index(2).up().build())];
    for address in addresses(number) {
        let mut message = match address.ip() {
            IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().address(ip, address.prefix()).build(),
            IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().address(ip, address.prefix()).build(),
        };
        message.header.index = 2;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        messages.push(Message::NewAddress(message));
    }
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().gateway([10, 101, 0, 1].into());
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().gateway("fd00:101::1".parse().unwrap());
    messages.extend([v4.output_interface(2).build(), v6.output_interface(2).build()].map(Message::NewRoute));
    messages
}

fn connect() -> Socket {
    let socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket
}

fn tell(socket: &Socket, messages: Vec<Message>) {
    let (mut bytes, mut missing) = (Vec::new(), messages.len());
    for message in messages {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        message.finalize();
        let begin = bytes.len();
        bytes.resize(begin + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[begin..]);
    }
    socket.send(&bytes, 0).unwrap();
    while missing > 0 {
        let (answer, _) = socket.recv_from_full().unwrap();
        let code = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(code, 0, "{}", std::io::Error::from_raw_os_error(-code));
        missing -= 1;
    }
}

fn up(c: &mut Criterion) {
    host();
    let mut group = c.benchmark_group("up again");
    let dir = tempfile::tempdir().unwrap();
    for firewall in FIREWALLS {
        let driver = open(firewall, dir.path());
        let net = network(&*driver);
        group.bench_function(firewall, |b| b.iter(|| driver.up(&net).unwrap()));
        driver.down(&net).unwrap();
        driver.restore().unwrap();
    }
}

/// A container that runs, beside others that publish so many ports together.
fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish");
    for beside in [0, 1000, 10_000] {
        host();
        let dir = tempfile::tempdir().unwrap();
        let driver = open("nft", dir.path());
        let net = network(&*driver);
        let settle = |number: u32, ports: &[&str]| -> (Namespace, Endpoint, Attachment) {
            let (container, ep) = (Namespace::new().unwrap(), endpoint(number, ports));
            let was = driver.attach(&net, &ep, container.as_fd()).unwrap();
            (container, ep, was)
        };
        let others: Vec<_> = (0..beside / 1000)
            .map(|number| {
                let first = 20_000 + number * 1000;
                let ports: Vec<_> = (first..first + 1000).map(|port| format!("{port}:80")).collect();
                let ports: Vec<_> = ports.iter().map(String::as_str).collect();
                settle(1 + number, &ports)
            })
            .collect();
        let (container, bare, none) = settle(0, &[]);
        for port in ["8080:80", "8080:80/udp", "3000-3999:3000-3999"] {
            let published = endpoint(0, &[port]);
            group.bench_function(BenchmarkId::new(port, beside), |b| {
                b.iter_custom(|count| {
                    timed(count, |_| {
                        let started = Instant::now();
                        let was = driver.update(&net, &none, &published, container.as_fd()).unwrap();
                        let took = started.elapsed();
                        let _ = driver.update(&net, &was, &bare, container.as_fd()).unwrap();
                        took
                    })
                });
            });
        }
        drop(others);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
    targets = attach, up, publish
}
criterion_main!(benches);
