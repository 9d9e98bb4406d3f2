//! A host with its bridge driver, a machine outside of it, and containers.
//!
//! ```text
//! outside 198.51.100.2 ── 198.51.100.1 host 172.30.N.1 ── 172.30.N.2, .3 … containers
//!   2001:db8:51::2          2001:db8:51::1   fd00:N::1      fd00:N::2, ::3 …
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use mica_core::network::{
    Attachment, Endpoint, EndpointId, InterfaceName, Network, NetworkDriver, NetworkId, OwnerId, Pool,
    Publish,
};
use mica_core::{Error, Result};
use tempfile::TempDir;

use crate::namespace::Namespace;

pub(crate) const HOST: &str = "198.51.100.1";
pub(crate) const HOST6: &str = "2001:db8:51::1";
/// A second address of the host.
pub(crate) const ALSO: &str = "198.51.100.7";
pub(crate) const OUTSIDE: &str = "198.51.100.2";
pub(crate) const OUTSIDE6: &str = "2001:db8:51::2";

/// The engine.
pub(crate) const OWNER: &str = "0a0a0a0a0a0a0a0a";

/// Which firewall a scene has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Nft,
    Iptables,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
        }
    }
}

pub(crate) struct Scene {
    pub(crate) host: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) backend: Backend,
    driver: Box<dyn NetworkDriver>,
    _dir: TempDir,
    networks: u8,
    /// How many endpoints there were: none has the id of another, not even of one that is gone.
    endpoints: Cell<u8>,
}

/// A network that is up, numbered from 1.
pub(crate) struct Net {
    pub(crate) record: Network,
    number: u8,
}

/// A container with its place in a network.
pub(crate) struct Container {
    pub(crate) machine: Namespace,
    pub(crate) endpoint: Endpoint,
    pub(crate) attachment: Attachment,
    pub(crate) v4: String,
    pub(crate) v6: String,
}

impl Scene {
    /// A host without networks; `None`, and a line that says why, where this machine lacks the firewall.
    pub(crate) fn under(backend: Backend, test: &str) -> Option<Self> {
        Self::of(Namespace::new(), backend, &format!("{test} with {}", backend.name()))
    }

    /// The same with the older kind of `iptables`, whose tables the kernel keeps apart.
    pub(crate) fn under_legacy(test: &str) -> Option<Self> {
        let test = format!("{test} with iptables-legacy");
        match Namespace::new().with_legacy_iptables() {
            Ok(host) => {
                assert!(host.program("iptables", &["--version"]).contains("(legacy)"));
                Self::of(host, Backend::Iptables, &test)
            }
            Err(reason) => {
                eprintln!("skip: {test}: {reason}");
                None
            }
        }
    }

    fn of(host: Namespace, backend: Backend, test: &str) -> Option<Self> {
        let outside = Namespace::new();
        wire(&host, &outside);
        let dir = tempfile::tempdir().unwrap();
        let settings = BTreeMap::from([("firewall".to_owned(), backend.name().to_owned())]);
        let owner: OwnerId = OWNER.parse().unwrap();
        match host.run(|| (mica_net::BRIDGE.open)(owner, dir.path(), &settings)) {
            Ok(driver) => {
                Some(Self { host, outside, backend, driver, _dir: dir, networks: 0, endpoints: Cell::new(0) })
            }
            Err(Error::Unavailable { reason }) => {
                eprintln!("skip: {test}: {reason}");
                None
            }
            Err(err) => panic!("{err}"),
        }
    }

    /// A call of the driver, on the host.
    pub(crate) fn driver<T: Send>(&self, call: impl FnOnce(&dyn NetworkDriver) -> T + Send) -> T {
        let driver = self.driver.as_ref();
        self.host.run(move || call(driver))
    }

    /// The next network, up.
    pub(crate) fn network(&mut self, options: &[(&str, &str)]) -> Net {
        self.try_network(false, options).unwrap()
    }

    /// The next network, internal, up.
    pub(crate) fn internal(&mut self) -> Net {
        self.try_network(true, &[]).unwrap()
    }

    pub(crate) fn try_network(&mut self, internal: bool, options: &[(&str, &str)]) -> Result<Net> {
        self.networks += 1;
        let number = self.networks;
        let pool = |subnet: String| Pool {
            subnet: subnet.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Vec::new(),
        };
        let pools = vec![pool(format!("172.30.{number}.0/24")), pool(format!("fd00:{number}::/64"))];
        let option = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let wanted = Network {
            name: format!("net{number}"),
            pools,
            internal,
            options: options.iter().map(option).collect(),
            ..Network::unrecorded(NetworkId::from_bytes([number; 16]))
        };
        let record = self.driver(|driver| driver.plan(wanted))?;
        let net = Net { record, number };
        self.driver(|driver| driver.up(&net.record))?;
        Ok(net)
    }

    /// A container in this network, its `n`th from 2 on, which is its gateway and publishes these ports.
    pub(crate) fn container(&self, net: &Net, n: u8, ports: &[&str]) -> Container {
        self.try_container(net, n, ports).unwrap()
    }

    pub(crate) fn try_container(&self, net: &Net, n: u8, ports: &[&str]) -> Result<Container> {
        let (v4, v6) = (format!("172.30.{}.{n}", net.number), format!("fd00:{}::{n}", net.number));
        let addresses = [&v4, &v6].map(|address| address.parse::<IpAddr>().unwrap()).to_vec();
        self.endpoints.set(self.endpoints.get() + 1);
        let endpoint = Endpoint {
            addresses,
            interface: InterfaceName::inner(0),
            gateway: net.record.routes,
            ports: ports.iter().map(|port| published(port)).collect(),
            ..Endpoint::unrecorded(EndpointId::from_bytes([0x80 + self.endpoints.get(); 16]))
        };
        let machine = Namespace::new();
        let attachment = self.driver(|driver| driver.attach(&net.record, &endpoint, machine.as_fd()))?;
        Ok(Container { machine, endpoint, attachment, v4, v6 })
    }

    /// Publishes other ports of a running container.
    pub(crate) fn publish(&self, net: &Net, container: &mut Container, ports: &[&str]) {
        container.endpoint.ports = ports.iter().map(|port| published(port)).collect();
        let (endpoint, was) = (&container.endpoint, &container.attachment);
        let machine = container.machine.as_fd();
        container.attachment =
            self.driver(|driver| driver.update(&net.record, was, endpoint, machine)).unwrap();
    }

    pub(crate) fn detach(&self, net: &Net, container: &Container) {
        let (endpoint, was) = (&container.endpoint, Some(&container.attachment));
        let machine = Some(container.machine.as_fd());
        self.driver(|driver| driver.detach(&net.record, endpoint, was, machine)).unwrap();
    }
}

impl Net {
    /// The bridge's addresses.
    pub(crate) fn gateway(&self) -> (String, String) {
        (format!("172.30.{}.1", self.number), format!("fd00:{}::1", self.number))
    }

    pub(crate) fn subnets(&self) -> (String, String) {
        (format!("172.30.{}.0/24", self.number), format!("fd00:{}::/64", self.number))
    }
}

/// A published port, as `-p` has it.
fn published(text: &str) -> mica_core::network::Port {
    let wish: Publish = text.parse().unwrap();
    wish.at(*wish.choices().unwrap().start()).unwrap()
}

fn wire(host: &Namespace, outside: &Namespace) {
    host.ip(&format!("link add uplink0 type veth peer name eth0 netns {}", outside.path()));
    for (machine, link, v4, v6) in [(host, "uplink0", HOST, HOST6), (outside, "eth0", OUTSIDE, OUTSIDE6)] {
        machine.ip(&format!("link set {link} up"));
        machine.ip(&format!("addr add {v4}/24 dev {link}"));
        machine.ip(&format!("addr add {v6}/64 dev {link} nodad"));
    }
    host.ip(&format!("addr add {ALSO}/24 dev uplink0"));
    host.ip(&format!("route add default via {OUTSIDE}"));
    host.ip(&format!("route add default via {OUTSIDE6}"));
}
