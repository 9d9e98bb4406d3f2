use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mica_core::network::{EndpointId, Families, Mac, NetworkId, Pool, Scope};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoBridgePort, LinkAttribute};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};
use tempfile::TempDir;

use super::*;
use crate::netlink::{Request, address, route};
use crate::played::{machine, on};

/// A host in a namespace, with the driver and no firewall.
struct Host {
    ns: OwnedFd,
    driver: Box<dyn NetworkDriver>,
    _dir: TempDir,
}

impl Host {
    fn new() -> Self {
        Self::of([7; 8], machine())
    }

    fn of(owner: [u8; 8], ns: OwnedFd) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = OptionMap::from([("firewall".to_owned(), "none".to_owned())]);
        let driver = on(&ns, || open(OwnerId::from_bytes(owner), dir.path(), &settings)).unwrap();
        Self { ns, driver, _dir: dir }
    }

    fn on<T: Send>(&self, work: impl FnOnce(&dyn NetworkDriver) -> Result<T> + Send) -> Result<T> {
        on(&self.ns, || work(&*self.driver))
    }

    fn up(&self, wanted: Network) -> Network {
        self.on(|driver| {
            let net = driver.plan(wanted)?;
            driver.up(&net)?;
            Ok(net)
        })
        .unwrap()
    }

    fn attach(&self, net: &Network, ep: &Endpoint) -> (OwnedFd, Attachment) {
        let ns = machine();
        let attachment = self.on(|driver| driver.attach(net, ep, ns.as_fd())).unwrap();
        (ns, attachment)
    }

    fn link(&self, name: &str) -> Option<link::Link> {
        on(&self.ns, || Ok(link::by_name(&mut Netlink::open()?, name)?)).unwrap()
    }

    fn make_bridge(&self, name: &str) {
        let message = LinkMessageBuilder::<LinkBridge>::new(name).build();
        let request = Request::create(RouteNetlinkMessage::NewLink(message), "make a foreign bridge");
        on(&self.ns, || Ok(Netlink::open()?.tell(vec![request])?)).unwrap();
    }
}

fn pool(subnet: &str) -> Pool {
    Pool { subnet: subnet.parse().unwrap(), gateway: None, range: None, reserved: Vec::new() }
}

fn network() -> Network {
    Network { pools: vec![pool("10.9.0.0/24")], ..Network::unrecorded(NetworkId::from_bytes([0x11; 16])) }
}

fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        addresses: vec![IpAddr::from([10, 9, 0, number])],
        gateway: Families { v4: true, v6: false },
        ..Endpoint::unrecorded(EndpointId::from_bytes([number; 16]))
    }
}

/// A socket inside, at this port of every address.
fn socket(ns: &OwnedFd, port: u16) -> UdpSocket {
    let socket =
        on(ns, || UdpSocket::bind(("0.0.0.0", port)).map_err(Error::io(|| "bind a socket"))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn a_plan_is_complete_and_stays_as_it_is() {
    let host = Host::new();
    let mut wanted = network();
    for (option, value) in [("enable_icc", "0"), ("host_binding_ipv4", "127.0.0.1")] {
        wanted.options.insert(format!("com.docker.network.bridge.{option}"), value.to_owned());
    }
    let net = host.on(|driver| driver.plan(wanted)).unwrap();
    let options = [("icc", "false"), ("masquerade", "true")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(net.options, OptionMap::from(options));
    assert_eq!(net.interface.as_ref().unwrap().as_str(), "mica11111111111");
    assert_eq!(net.binding, Some(Ipv4Addr::LOCALHOST));
    assert_eq!(net.pools[0].gateway, Some("10.9.0.1".parse().unwrap()));
    assert_eq!((net.mtu, net.routes), (Some(1500), Families { v4: true, v6: false }));
    assert_eq!(host.on(|driver| driver.plan(net.clone())).unwrap(), net);
}

#[test]
fn the_mtu_is_that_of_the_way_to_the_world() {
    let host = Host::new();
    on(&host.ns, || {
        let mut netlink = Netlink::open()?;
        let uplink = LinkMessageBuilder::<LinkBridge>::new("up0").mtu(1380).up().build();
        netlink.tell(vec![Request::create(RouteNetlinkMessage::NewLink(uplink), "make an uplink")])?;
        let index = link::by_name(&mut netlink, "up0")?.unwrap().index;
        let gateway = "192.0.2.1".parse().unwrap();
        netlink.tell(vec![
            address::add(index, "192.0.2.9/24".parse().unwrap()),
            route::add_default(index, gateway),
        ])?;
        Ok(())
    })
    .unwrap();
    assert_eq!(host.on(|driver| driver.plan(network())).unwrap().mtu, Some(1380));
}

#[test]
fn what_cannot_be_a_network_is_refused_with_what_could() {
    let host = Host::new();
    let refused = |wanted| host.on(|driver| driver.plan(wanted)).unwrap_err().to_string();
    let with = |pools: &[&str]| Network { pools: pools.iter().map(|text| pool(text)).collect(), ..network() };
    assert!(refused(with(&[])).contains("such as 172.30.0.0/24"));
    assert!(refused(with(&["10.0.0.0/24", "10.1.0.0/24"])).contains("one IPv4 subnet"));
    for special in ["127.0.0.0/24", "::ffff:10.0.0.0/120"] {
        assert!(refused(with(&[special])).contains("not for hosts"), "{special}");
    }
    assert!(refused(Network { mtu: Some(60), ..network() }).contains("from 68 to 65535"));
    let bound = |at: &str| Network { binding: Some(at.parse().unwrap()), ..network() };
    assert!(refused(bound("224.0.0.1")).contains("no host's"));
    assert_eq!(host.on(|driver| driver.plan(bound("0.0.0.0"))).unwrap().binding, None, "at all addresses");
    assert!(refused(Network { internal: true, ..network() }).contains("does not support internal"));
    host.make_bridge("lan0");
    let taken = Network { interface: Some("lan0".parse().unwrap()), ..network() };
    assert_eq!(refused(taken), "interface 'lan0' is in use by the host");
}

#[test]
fn a_subnet_that_another_interface_has_by_now_is_not_taken_twice() {
    let host = Host::new();
    let net = host.on(|driver| driver.plan(network())).unwrap();
    host.make_bridge("lan0");
    on(&host.ns, || {
        let mut netlink = Netlink::open()?;
        let lan = link::by_name(&mut netlink, "lan0")?.unwrap();
        Ok(netlink.tell(vec![address::add(lan.index, "10.9.0.9/24".parse()?)])?)
    })
    .unwrap();
    let text = host.on(|driver| driver.up(&net)).unwrap_err().to_string();
    assert_eq!(text, "subnet 10.9.0.0/24 is in use by interface 'lan0'");
    assert!(host.link(net.interface.unwrap().as_str()).is_none());
}

#[test]
fn neighbours_know_at_once_whose_an_address_is_now() {
    let host = Host::new();
    let net = host.up(network());
    let (other, _) = host.attach(&net, &endpoint(3));
    let other = socket(&other, 5000);
    let mut buffer = [0; 8];
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02"] {
        let mut ep = endpoint(2);
        ep.mac = Some(mac.parse::<Mac>().unwrap());
        let (ns, attachment) = host.attach(&net, &ep);
        let here = socket(&ns, 5000);
        other.send_to(mac.as_bytes(), "10.9.0.2:5000").unwrap();
        here.recv_from(&mut buffer).expect("the neighbour did not know the address");
        host.on(|driver| driver.detach(&net, &ep, Some(&attachment), Some(ns.as_fd()))).unwrap();
    }
}

#[test]
fn ports_of_a_network_without_icc_are_isolated() {
    let host = Host::new();
    let isolated = |icc: &str| {
        let options = OptionMap::from([("icc".to_owned(), icc.to_owned())]);
        let net = host.up(Network { options, ..network() });
        let (ns, attachment) = host.attach(&net, &endpoint(2));
        let port = host.link("mive02020202020").unwrap().port;
        host.on(|driver| {
            driver.check(&net, &endpoint(2), &attachment, ns.as_fd())?;
            driver.detach(&net, &endpoint(2), Some(&attachment), Some(ns.as_fd()))?;
            driver.down(&net)
        })
        .unwrap();
        port.contains(&InfoBridgePort::Isolated(true))
    };
    assert!(isolated("false") && !isolated("true"));
}

#[test]
fn a_link_with_anothers_mark_is_left_alone() {
    let one = Host::new();
    let net = one.up(network());
    let (ns, _) = one.attach(&net, &endpoint(2));
    let other = Host::of([8; 8], one.ns.try_clone().unwrap());
    assert!(matches!(other.on(|driver| driver.up(&net)), Err(Error::AlreadyExists { .. })));
    assert!(matches!(other.on(|driver| driver.plan(network())), Err(Error::InUse { .. })));
    other
        .on(|driver| {
            driver.detach(&net, &endpoint(2), None, Some(ns.as_fd()))?;
            driver.down(&net)?;
            assert!(driver.list()?.is_empty());
            Ok(())
        })
        .unwrap();
    assert!(one.link("mive02020202020").is_some() && one.link("mica11111111111").is_some());
}

#[test]
fn a_check_names_everything_that_is_wrong() {
    let host = Host::new();
    let net = host.up(network());
    let (ns, attachment) = host.attach(&net, &endpoint(2));
    let check = || host.on(|driver| driver.check(&net, &endpoint(2), &attachment, ns.as_fd()));
    check().unwrap();
    let set = |ns: &OwnedFd, message| {
        let request = Request::new(RouteNetlinkMessage::NewLink(message), "break a link");
        on(ns, || Ok(Netlink::open()?.tell(vec![request])?)).unwrap();
    };
    set(&ns, LinkUnspec::new_with_name("eth0").mtu(1400).build());
    set(&host.ns, LinkUnspec::new_with_name("mive02020202020").nocontroller().build());
    on(&host.ns, || setting::write("ipv6/conf/mica11111111111/accept_ra", "2")).unwrap();
    let bridge = LinkUnspec::new_with_name("mica11111111111");
    set(&host.ns, bridge.append_extra_attribute(LinkAttribute::Group(7)).build());
    let text = check().unwrap_err().to_string();
    let faults = [
        "has MTU 1400, not 1500",
        "is no port of bridge",
        "accept_ra is 2, not 0",
        "is in link group 7, not",
    ];
    for fault in faults {
        assert!(text.contains(fault), "{fault}: {text}");
    }
}

#[test]
fn a_second_default_route_is_refused_and_leaves_the_first() {
    let host = Host::new();
    let net = host.up(network());
    let (ns, _) = host.attach(&net, &endpoint(2));
    let mut second = network();
    second.id = NetworkId::from_bytes([0x22; 16]);
    second.pools = vec![pool("10.8.0.0/24")];
    let second = host.up(second);
    let ep = Endpoint {
        interface: "eth1".parse().unwrap(),
        addresses: vec!["10.8.0.2".parse().unwrap()],
        ..endpoint(4)
    };
    assert!(host.on(|driver| driver.attach(&second, &ep, ns.as_fd())).is_err());
    assert!(host.link("mive04040404040").is_none());
    on(&ns, || {
        let mut netlink = Netlink::open()?;
        assert!(link::by_name(&mut netlink, "eth1")?.is_none());
        let routes = route::routes(&mut netlink)?;
        assert_eq!(routes.iter().filter(|route| route.is_default()).count(), 1);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_link_whose_namespace_was_closed_is_left_to_the_kernel() {
    let host = Host::new();
    let net = host.up(network());
    let ep = endpoint(2);
    let name = place::veth(&ep.id);
    let is_dying = |link: &link::Link| on(&host.ns, || Ok(link::is_dying(&mut Netlink::open()?, link)?));
    for _ in 0..3 {
        let (ns, was) = host.attach(&net, &ep);
        let held = ns.try_clone().unwrap();
        drop(ns);
        let link = host.link(name.as_str()).unwrap();
        assert!(!is_dying(&link).unwrap(), "somebody else uses it");
        drop(held);
        // Sockets that were open in it hold it for a grace period of the kernel.
        soon(|| is_dying(&link).unwrap());
        let listed = host.on(|driver| driver.list()).unwrap();
        assert!(listed.iter().all(|owned| !matches!(owned.scope, Scope::Endpoint(..))), "{listed:?}");
        host.on(|driver| driver.detach(&net, &ep, Some(&was), None)).unwrap();
        // The next turn attaches the same endpoint, whether its link is gone by now or not.
    }
    soon(|| host.link(name.as_str()).is_none());
}

/// Waits for what the kernel does by itself.
fn soon(mut is_done: impl FnMut() -> bool) {
    let since = std::time::Instant::now();
    while !is_done() {
        assert!(since.elapsed() < Duration::from_secs(5), "the kernel does not come round to it");
        std::thread::yield_now();
    }
}

#[test]
fn a_link_whose_namespace_lives_is_deleted_without_it() {
    let host = Host::new();
    let net = host.up(network());
    let ep = endpoint(2);
    let (_ns, was) = host.attach(&net, &ep);
    host.on(|driver| driver.detach(&net, &ep, Some(&was), None)).unwrap();
    assert!(host.link(place::veth(&ep.id).as_str()).is_none());
}
