//! What is macvlan's own, beside the contract: containers as neighbours of the host.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use mica_conformance::network::Namespace;
use mica_conformance::network::kernel::{self, Birth};
use mica_core::network::{
    Attachment, Endpoint, EndpointId, Families, InterfaceName, Mac, Network, NetworkDriver, NetworkId,
    OwnerId, Pool,
};
use mica_core::{Error, OptionMap};
use mica_net::MACVLAN;

const BOTH: Families = Families { v4: true, v6: true };
const NEIGHBOUR: [&str; 2] = ["10.0.0.2/24", "fd00::2/64"];
const HOST: [&str; 2] = ["10.0.0.1/24", "fd00::1/64"];

/// A host whose `eth1` leads to a neighbour, and the driver there.
struct Lan {
    host: Namespace,
    neighbour: Namespace,
    driver: Box<dyn NetworkDriver>,
    network: Network,
}

impl Lan {
    fn new() -> Self {
        let (host, neighbour) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let give = |link: &str, addresses: &[&str]| {
            kernel::set_up(link, true)?;
            addresses.iter().try_for_each(|text| kernel::add_address(link, text.parse().unwrap()))
        };
        let dir = tempfile::tempdir().unwrap();
        let (driver, network) = host
            .inside(|| {
                kernel::add_veth("eth1", "lan0", Birth::default(), neighbour.as_fd())?;
                give("eth1", &HOST)?;
                let owner = OwnerId::from_bytes([1; 8]);
                let driver = (MACVLAN.open)(owner, dir.path(), &OptionMap::new()).unwrap();
                let network = driver.plan(wanted()).unwrap();
                driver.up(&network).unwrap();
                Ok((driver, network))
            })
            .unwrap();
        neighbour.inside(|| give("lan0", &NEIGHBOUR)).unwrap();
        Self { host, neighbour, driver, network }
    }

    /// Calls the driver on the host.
    fn on_host<T: Send>(
        &self,
        call: impl FnOnce(&dyn NetworkDriver) -> mica_core::Result<T> + Send,
    ) -> mica_core::Result<T> {
        let mut answer = None;
        self.host
            .inside(|| {
                answer = Some(call(&*self.driver));
                Ok(())
            })
            .unwrap();
        answer.unwrap()
    }

    fn attach(&self, endpoint: &Endpoint, container: &Namespace) -> mica_core::Result<Attachment> {
        self.on_host(|driver| driver.attach(&self.network, endpoint, container.as_fd()))
    }

    fn detach(&self, endpoint: &Endpoint, was: Option<&Attachment>, container: &Namespace) {
        self.on_host(|driver| driver.detach(&self.network, endpoint, was, Some(container.as_fd()))).unwrap();
    }

    /// A container that is attached.
    fn container(&self, number: u8) -> Namespace {
        let container = Namespace::new().unwrap();
        let _ = self.attach(&endpoint(number), &container).unwrap();
        container
    }
}

fn wanted() -> Network {
    let pool = |subnet: &str, gateway: &str| Pool {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().ok(),
        range: None,
        reserved: Vec::new(),
    };
    Network {
        name: "lan".to_owned(),
        pools: vec![pool("10.0.0.0/24", "10.0.0.2"), pool("fd00::/64", "fd00::2")],
        options: OptionMap::from([("parent".to_owned(), "eth1".to_owned())]),
        ..Network::unrecorded(NetworkId::from_bytes([2; 16]))
    }
}

fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        addresses: addresses(number).to_vec(),
        gateway: BOTH,
        ..Endpoint::unrecorded(EndpointId::from_bytes([number; 16]))
    }
}

fn addresses(number: u8) -> [IpAddr; 2] {
    [format!("10.0.0.{number}"), format!("fd00::{number}")].map(|text| text.parse().unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.split('/').next().unwrap().parse().unwrap()
}

/// Whom the one sees that listens at this address, when the other connects.
fn seen(from: &Namespace, to: &Namespace, at: IpAddr, patience: Duration) -> io::Result<IpAddr> {
    let listener = to.inside(|| TcpListener::bind(SocketAddr::new(at, 0)))?;
    let to = listener.local_addr()?;
    let _client = from.inside(|| TcpStream::connect_timeout(&to, patience))?;
    Ok(listener.accept()?.1.ip())
}

const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(300);

fn names(container: &Namespace) -> Vec<String> {
    let links = container.inside(kernel::links).unwrap();
    links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect()
}

#[test]
fn neighbours_and_containers_reach_each_other_as_themselves() {
    let lan = Lan::new();
    let (one, other) = (lan.container(8), lan.container(9));
    for (place, theirs) in NEIGHBOUR.iter().enumerate() {
        let [eight, nine] = [addresses(8)[place], addresses(9)[place]];
        assert_eq!(seen(&lan.neighbour, &one, eight, PATIENCE).unwrap(), ip(theirs));
        assert_eq!(seen(&one, &lan.neighbour, ip(theirs), PATIENCE).unwrap(), eight);
        assert_eq!(seen(&one, &other, nine, PATIENCE).unwrap(), eight);
    }
}

#[test]
fn a_container_does_not_reach_its_host() {
    let lan = Lan::new();
    let container = lan.container(9);
    for host in HOST {
        assert!(seen(&container, &lan.host, ip(host), SILENCE).is_err(), "{host}");
    }
}

/// What stands in a neighbour's cache would lead to the old container for a minute.
#[test]
fn an_address_that_moved_is_found_at_once() {
    let lan = Lan::new();
    let first = lan.container(9);
    for at in addresses(9) {
        seen(&lan.neighbour, &first, at, PATIENCE).unwrap();
    }
    lan.detach(&endpoint(9), None, &first);
    let heir = Endpoint { addresses: addresses(9).to_vec(), ..endpoint(10) };
    let second = Namespace::new().unwrap();
    let _ = lan.attach(&heir, &second).unwrap();
    // Long enough to send a packet once more, too short for the neighbour to doubt what it knows (5 s, arp(7)).
    let limit = Duration::from_millis(2500);
    for at in addresses(9) {
        seen(&lan.neighbour, &second, at, limit).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
}

#[test]
fn a_hardware_address_that_another_one_has_is_refused_and_nothing_is_left() {
    let lan = Lan::new();
    let _first = lan.container(8);
    let mac = Some(Mac::of_endpoint(&endpoint(8).id));
    let second = Namespace::new().unwrap();
    let error = lan.attach(&Endpoint { mac, ..endpoint(9) }, &second).unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert!(error.to_string().contains("on 'eth1'"), "{error}");
    assert!(names(&second).is_empty());
}

#[test]
fn without_its_parent_a_network_says_what_is_missing() {
    let lan = Lan::new();
    let container = lan.container(9);
    let was = lan.attach(&endpoint(10), &Namespace::new().unwrap()).unwrap();
    lan.host.inside(|| kernel::set_up("eth1", false)).unwrap();
    let text = lan.on_host(|driver| driver.up(&lan.network)).unwrap_err().to_string();
    assert!(text.contains("'eth1'") && text.contains("ip link set eth1 up"), "{text}");
    assert!(matches!(lan.attach(&endpoint(11), &container), Err(Error::NotFound { .. })));
    lan.host.inside(|| kernel::remove_link("eth1")).unwrap();
    assert!(matches!(lan.on_host(|driver| driver.up(&lan.network)), Err(Error::Unavailable { .. })));
    assert!(matches!(lan.attach(&endpoint(11), &container), Err(Error::NotFound { .. })));
    let checked = lan.on_host(|driver| driver.check(&lan.network, &endpoint(9), &was, container.as_fd()));
    let text = checked.unwrap_err().to_string();
    assert!(text.contains("parent 'eth1'") && text.contains("'eth0' in the container is gone"), "{text}");
    lan.detach(&endpoint(9), None, &container);
}

/// The mark is put on when the interface is there already.
#[test]
fn an_interface_that_a_crash_left_without_its_mark_is_removed() {
    let lan = Lan::new();
    let container = lan.container(9);
    container.inside(|| kernel::set_alias("eth0", "")).unwrap();
    lan.detach(&endpoint(8), None, &container);
    assert_eq!(names(&container), ["eth0"], "it is another endpoint's");
    lan.detach(&endpoint(9), None, &container);
    assert!(names(&container).is_empty());
}

#[test]
fn an_interface_that_the_containers_root_has_changed_is_removed() {
    let lan = Lan::new();
    let container = Namespace::new().unwrap();
    let was = lan.attach(&endpoint(9), &container).unwrap();
    let disguise = || {
        kernel::set_alias("eth0", "uplink")?;
        kernel::set_mac("eth0", "02:00:00:00:00:99".parse().unwrap())
    };
    container.inside(disguise).unwrap();
    lan.detach(&endpoint(9), None, &container);
    assert_eq!(names(&container), ["eth0"], "without an attachment it may have been there before");
    lan.detach(&endpoint(9), Some(&was), &container);
    assert!(names(&container).is_empty());
}

#[test]
fn an_interface_of_another_owner_stays() {
    let lan = Lan::new();
    let container = lan.container(9);
    let foreign = format!("mica:{}:{}:{}", "09".repeat(8), "02".repeat(16), "09".repeat(16));
    container.inside(|| kernel::set_alias("eth0", &foreign)).unwrap();
    lan.detach(&endpoint(9), None, &container);
    assert_eq!(names(&container), ["eth0"]);
}

#[test]
fn default_routes_come_and_go_with_the_gateway() {
    let lan = Lan::new();
    let container = Namespace::new().unwrap();
    let inner = Endpoint { gateway: Families::NONE, ..endpoint(9) };
    let was = lan.attach(&inner, &container).unwrap();
    let gateways = || -> Vec<IpAddr> {
        let routes = container.inside(kernel::routes).unwrap();
        routes.iter().filter(|route| route.to.prefix() == 0).filter_map(|route| route.gateway).collect()
    };
    assert!(gateways().is_empty());
    let update = |was: &Attachment, ep: &Endpoint| {
        lan.on_host(|driver| driver.update(&lan.network, was, ep, container.as_fd()))
    };
    let elected = update(&was, &endpoint(9)).unwrap();
    assert_eq!(gateways(), NEIGHBOUR.map(ip));
    assert_eq!(update(&elected, &inner).unwrap(), was);
    assert!(gateways().is_empty());
    let renamed = Endpoint { interface: InterfaceName::inner(1), ..inner };
    assert!(matches!(update(&was, &renamed), Err(Error::Options(_))));
}
