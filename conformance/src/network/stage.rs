//! Where a case plays: a host with a driver, the machine outside, and containers.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mica_core::network::{
    Address, Addressing, Attachment, Endpoint, EndpointId, Family, InterfaceName, NetCapabilities, Network,
    NetworkDriver, NetworkId, OwnerId, Pool, Subnet,
};
use mica_core::{OptionMap, Result};

use super::kernel::{self, Birth};
use super::{Namespace, Subject};
use crate::outcome::{Doing, Stop, Verdict};

/// The engine that the driver of a case works for.
pub(crate) const OWNER: [u8; 8] = *b"mica-one";
/// Another engine on the same host.
pub(crate) const OTHER_OWNER: [u8; 8] = *b"mica-two";
/// The link of the host to the outside.
pub(crate) const UPLINK: &str = "uplink0";

const HOST: [&str; 2] = ["198.51.100.1/24", "2001:db8:0:ffff::1/64"];
const SECOND: [&str; 2] = ["198.51.100.3/24", "2001:db8:0:ffff::3/64"];
const OUTSIDE: [&str; 2] = ["198.51.100.2/24", "2001:db8:0:ffff::2/64"];

/// A host, in the namespace of the thread that made it, with a driver.
#[derive(Debug)]
pub struct Stage<'a> {
    subject: Subject<'a>,
    dir: tempfile::TempDir,
    driver: Box<dyn NetworkDriver>,
    host: Namespace,
    outside: Namespace,
    next_id: AtomicU32,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(subject: Subject<'a>) -> Verdict<Self> {
        let dir = tempfile::Builder::new().prefix("mica-conformance-").tempdir_in(subject.root);
        let dir = dir.doing(|| "make a directory for the case")?;
        let host = Namespace::current().doing(|| "open the namespace")?;
        let outside = outside_of(UPLINK, &HOST, &OUTSIDE).doing(|| "make the machine outside")?;
        for default in [(V4_DEFAULT, OUTSIDE[0]), (V6_DEFAULT, OUTSIDE[1])] {
            kernel::add_route(subnet(default.0)?, address(default.1)?.ip())
                .doing(|| "add a default route")?;
        }
        for second in SECOND {
            kernel::add_address(UPLINK, address(second)?).doing(|| "add an address")?;
        }
        let path = dir.path().join("driver");
        std::fs::create_dir(&path).doing(|| "make the driver's directory")?;
        let driver = (subject.entry.open)(OwnerId::from_bytes(OWNER), &path, subject.settings)?;
        Ok(Self { subject, dir, driver, host, outside, next_id: AtomicU32::new(1) })
    }

    /// The driver.
    pub fn driver(&self) -> &dyn NetworkDriver {
        &*self.driver
    }

    /// What it can do here.
    pub fn can(&self) -> &NetCapabilities {
        self.driver.capabilities()
    }

    pub(crate) fn subject(&self) -> Subject<'a> {
        self.subject
    }

    /// The host itself.
    pub(crate) fn host(&self) -> &Namespace {
        &self.host
    }

    /// The machine outside.
    pub(crate) fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// The directory of the driver of the first engine.
    pub(crate) fn directory(&self) -> PathBuf {
        self.dir.path().join("driver")
    }

    /// Opens the driver once more, as another process of the same engine does.
    pub(crate) fn reopened(&self) -> Result<Box<dyn NetworkDriver>> {
        (self.subject.entry.open)(OwnerId::from_bytes(OWNER), &self.directory(), self.subject.settings)
    }

    /// Opens the driver for another engine.
    pub(crate) fn for_another_owner(&self) -> Verdict<Box<dyn NetworkDriver>> {
        let path = self.dir.path().join("other");
        std::fs::create_dir_all(&path).doing(|| "make a directory")?;
        let owner = OwnerId::from_bytes(OTHER_OWNER);
        (self.subject.entry.open)(owner, &path, self.subject.settings)
            .doing(|| "open the driver for another engine")
    }

    /// An address of the host on its uplink, and the one of the machine outside.
    pub(crate) fn uplink(&self, family: Family) -> Verdict<(IpAddr, IpAddr)> {
        Ok((address(of(&HOST, family))?.ip(), address(of(&OUTSIDE, family))?.ip()))
    }

    /// The host's second address on its uplink.
    pub(crate) fn second_address(&self, family: Family) -> Verdict<IpAddr> {
        Ok(address(of(&SECOND, family))?.ip())
    }

    /// The families that endpoints have addresses of.
    pub(crate) fn families(&self) -> Vec<Family> {
        match (self.can().addressing, self.can().ipv6.is_yes()) {
            (Addressing::None, _) => Vec::new(),
            (_, true) => vec![Family::V4, Family::V6],
            (_, false) => vec![Family::V4],
        }
    }

    fn id_bytes(&self) -> [u8; 16] {
        let count = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Names derive from the first digits, so these differ most (the constant is that of Fibonacci hashing).
        let spread = u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&spread);
        bytes[12..].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    pub(crate) fn endpoint_id(&self) -> EndpointId {
        EndpointId::from_bytes(self.id_bytes())
    }

    /// A network that is wanted, unlike that of any other number, with a pool for each family.
    pub(crate) fn wanted(&self, number: u8) -> Verdict<Network> {
        let mut network = Network::unrecorded(NetworkId::from_bytes(self.id_bytes()));
        network.name = format!("net{number}");
        network.options = self.subject.options.clone();
        if self.can().addressing == Addressing::Engine {
            let pools = self.families().into_iter().map(|family| pool(family, number));
            network.pools = pools.collect::<Verdict<_>>()?;
        }
        Ok(network)
    }

    /// A network, planned and not up.
    pub(crate) fn planned(&self, number: u8) -> Verdict<Network> {
        self.driver.plan(self.wanted(number)?).doing(|| "plan")
    }

    /// A network that is up.
    pub(crate) fn network(&self, number: u8) -> Verdict<Network> {
        self.network_of(self.wanted(number)?)
    }

    /// This network, planned and up.
    pub(crate) fn network_of(&self, wanted: Network) -> Verdict<Network> {
        let network = self.driver.plan(wanted).doing(|| "plan")?;
        self.driver.up(&network).doing(|| "up")?;
        Ok(network)
    }

    /// An endpoint of a network, with the addresses of this number where they are given, and the default routes that the
    /// network can have.
    pub(crate) fn endpoint(&self, network: &Network, number: u16) -> Verdict<Endpoint> {
        let mut addresses = Vec::new();
        if self.can().addressing == Addressing::Engine {
            addresses.extend(network.pools.iter().map(|pool| nth(pool.subnet, number)));
        }
        Ok(Endpoint {
            id: self.endpoint_id(),
            interface: InterfaceName::inner(0),
            addresses,
            mac: None,
            gateway: network.routes,
            ports: Vec::new(),
            options: OptionMap::new(),
        })
    }

    /// A container without any network.
    pub(crate) fn container(&self) -> Verdict<Arc<Namespace>> {
        Ok(Arc::new(Namespace::new().doing(|| "make a network namespace")?))
    }

    /// A container in a network, with the addresses of this number.
    pub(crate) fn placed(&self, network: &Network, number: u16) -> Verdict<Placed> {
        self.place(network, self.endpoint(network, number)?)
    }

    /// A new container with this endpoint.
    pub(crate) fn place(&self, network: &Network, endpoint: Endpoint) -> Verdict<Placed> {
        self.place_in(network, endpoint, self.container()?)
    }

    /// A container with one more endpoint.
    pub(crate) fn place_in(
        &self,
        network: &Network,
        endpoint: Endpoint,
        namespace: Arc<Namespace>,
    ) -> Verdict<Placed> {
        let was = self.driver.attach(network, &endpoint, namespace.as_fd()).doing(|| "attach")?;
        Ok(Placed { network: network.clone(), endpoint, was, namespace })
    }

    /// Takes a live container out of its network.
    pub(crate) fn detach(&self, placed: &Placed) -> Verdict {
        let Placed { network, endpoint, was, namespace } = placed;
        self.driver.detach(network, endpoint, Some(was), Some(namespace.as_fd())).doing(|| "detach")
    }

    pub(crate) fn check(&self, placed: &Placed) -> Result<()> {
        let Placed { network, endpoint, was, namespace } = placed;
        self.driver.check(network, endpoint, was, namespace.as_fd())
    }
}

/// A container's place in a network.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The network.
    pub network: Network,
    /// What was asked for.
    pub endpoint: Endpoint,
    /// What was answered.
    pub was: Attachment,
    /// The container.
    pub namespace: Arc<Namespace>,
}

impl Placed {
    /// Its leased address of a family.
    pub(crate) fn address(&self, family: Family) -> Verdict<IpAddr> {
        let all = self.was.interface.iter().flat_map(|interface| &interface.addresses);
        let mut all = all.map(|address| address.ip()).filter(|ip| Family::of(*ip) == family);
        all.next().ok_or_else(|| Stop::failed(format!("attach answered no {family} address")))
    }

    /// The name of its interface.
    pub(crate) fn interface(&self) -> &str {
        self.endpoint.interface.as_str()
    }

    /// Does something to its kernel.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Verdict<T> {
        self.namespace.inside(work).doing(|| "inside the container")
    }
}

pub(crate) const V4_DEFAULT: &str = "0.0.0.0/0";
pub(crate) const V6_DEFAULT: &str = "::/0";

/// A machine at the other end of a new link of the host, both ends with addresses.
pub(crate) fn outside_of(link: &str, host: &[&str], theirs: &[&str]) -> io::Result<Namespace> {
    let machine = Namespace::new()?;
    kernel::add_veth(link, "lan0", Birth::default(), machine.as_fd())?;
    kernel::set_up(link, true)?;
    let read = |text: &&str| text.parse::<Address>().map_err(io::Error::other);
    host.iter().try_for_each(|text| kernel::add_address(link, read(text)?))?;
    machine.inside(|| {
        kernel::set_up("lan0", true)?;
        theirs.iter().try_for_each(|text| kernel::add_address("lan0", read(text)?))
    })?;
    Ok(machine)
}

pub(crate) fn subnet(text: &str) -> Verdict<Subnet> {
    Ok(text.parse::<Subnet>()?)
}

pub(crate) fn address(text: &str) -> Verdict<Address> {
    Ok(text.parse::<Address>()?)
}

fn of<'t>(texts: &[&'t str; 2], family: Family) -> &'t str {
    if family == Family::V4 { texts[0] } else { texts[1] }
}

/// The pool that the network of this number has. It holds more addresses than a bridge has ports.
fn pool(family: Family, number: u8) -> Verdict<Pool> {
    let text = match family {
        Family::V4 => format!("10.{}.0.0/20", 100 + number),
        Family::V6 => format!("fd00:{}::/64", 100 + u16::from(number)),
    };
    Ok(Pool { subnet: subnet(&text)?, gateway: None, range: None, reserved: Vec::new() })
}

/// The address so many after the first.
pub(crate) fn nth(subnet: Subnet, number: u16) -> IpAddr {
    match subnet.first() {
        IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits() + u32::from(number)).into(),
        IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
    }
}
