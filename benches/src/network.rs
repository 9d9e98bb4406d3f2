//! Machines for rows about networks: each is a network namespace, and nothing leaves them.
//!
//! The main thread enters the host of the contender whose turn it is, as a process of that host would be in it, and goes
//! home afterwards. What a turn leaves to the kernel is waited for before the next one ([`Machine::drain`]): the next
//! contender would pay for it, since the kernel clears namespaces away under the lock that every change of a link takes.

pub(crate) mod by_hand;
pub(crate) mod host;
mod messages;
pub(crate) mod traffic;

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mica_conformance::network::Namespace;
use mica_conformance::network::kernel::{self, Birth};
use mica_core::network::{Address, EndpointId, Families, Family, Subnet};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use crate::Result;

/// The link of a host to the outside.
pub(crate) const UPLINK: &str = "uplink0";
/// The host's addresses on it, and those of the machine at its other end.
pub(crate) const HOST: [&str; 2] = ["198.51.100.1/24", "2001:db8:0:ffff::1/64"];
pub(crate) const OUTSIDE: [&str; 2] = ["198.51.100.2/24", "2001:db8:0:ffff::2/64"];
/// The network behind it.
pub(crate) const SUBNETS: [&str; 2] = ["10.101.0.0/20", "fd00:101::/64"];
pub(crate) const BOTH: Families = Families { v4: true, v6: true };
pub(crate) const IPV4: Families = Families { v4: true, v6: false };

/// Closed last, so that what was closed before is gone when it is.
const FENCE: &str = "fence0";
const PATIENCE: Duration = Duration::from_secs(20);

/// A host, with a machine outside of it.
#[derive(Debug)]
pub(crate) struct Machine {
    home: Namespace,
    here: Namespace,
    outside: Namespace,
    links: usize,
    /// How many containers there were.
    made: Cell<u32>,
}

/// A container to be: a namespace with `lo`, and which one it is of its host's.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) namespace: Namespace,
    pub(crate) number: u32,
}

/// Who connects containers to a network.
pub(crate) trait Connects {
    /// What it remembers of a container.
    type Place;

    fn machine(&self) -> &Machine;
    /// Decides where a container comes, so all that is not connecting it.
    fn place(&self, container: &Container) -> Result<Self::Place>;
    fn attach(&self, container: &Container, place: &mut Self::Place) -> Result<()>;
    /// Takes away what is left of a container whose namespace was closed.
    fn detach(&self, place: Self::Place) -> Result<()>;
    /// Fails where something of a container is left.
    fn check_empty(&self) -> Result<()>;
}

impl Machine {
    pub(crate) fn new() -> Result<Self> {
        let new = || Namespace::new().map_err(failed("make a network namespace"));
        let home = Namespace::current().map_err(failed("open the network namespace"))?;
        let mut machine = Self { home, here: new()?, outside: new()?, links: 0, made: Cell::new(0) };
        machine.wire().map_err(failed("lay out a host"))?;
        Ok(machine)
    }

    fn wire(&mut self) -> io::Result<()> {
        let outside = &self.outside;
        let add = |link, addresses: [&str; 2]| {
            kernel::set_up(link, true)?;
            let read = |text: &str| text.parse::<Address>().map_err(io::Error::other);
            addresses.iter().try_for_each(|text| kernel::add_address(link, read(text)?))
        };
        let links = self.here.inside(|| {
            kernel::add_veth(UPLINK, "lan0", Birth::default(), outside.as_fd())?;
            outside.inside(|| add("lan0", OUTSIDE))?;
            add(UPLINK, HOST)?;
            for (to, by) in ["0.0.0.0/0", "::/0"].into_iter().zip(OUTSIDE) {
                let (to, by) = (to.parse::<Subnet>(), by.parse::<Address>());
                kernel::add_route(to.map_err(io::Error::other)?, by.map_err(io::Error::other)?.ip())?;
            }
            Ok(kernel::links()?.len())
        });
        self.links = links?;
        Ok(())
    }

    /// What is there beside containers was made.
    pub(crate) fn furnished(&mut self) -> Result<()> {
        let links = self.here.inside(kernel::links).map_err(failed("list links"))?;
        self.links = links.len();
        Ok(())
    }

    /// The calling thread goes to the host.
    pub(crate) fn enter(&self) -> Result<()> {
        go(&self.here)
    }

    /// The calling thread goes to the machine outside.
    pub(crate) fn enter_outside(&self) -> Result<()> {
        go(&self.outside)
    }

    /// The calling thread goes where the program is.
    pub(crate) fn leave(&self) -> Result<()> {
        go(&self.home)
    }

    pub(crate) fn here(&self) -> &Namespace {
        &self.here
    }

    pub(crate) fn container(&self) -> Result<Container> {
        let number = self.made.get();
        self.made.set(number + 1);
        let namespace = Namespace::new().map_err(failed("make a network namespace"))?;
        Ok(Container { namespace, number })
    }

    /// The calling thread goes where the program is, and waits there until what was closed is gone.
    pub(crate) fn drain(&self) -> Result<()> {
        self.leave()?;
        drain()
    }

    /// Fails where there are links that were not there before the first container.
    pub(crate) fn check_links(&self) -> Result<()> {
        let links = self.here.inside(kernel::links).map_err(failed("list links"))?;
        if links.len() == self.links {
            return Ok(());
        }
        Err(format!("of the containers {} links are left", links.len().abs_diff(self.links)))
    }
}

impl Container {
    /// As random as the engine's are, and the same in each run.
    pub(crate) fn id(&self) -> EndpointId {
        let spread = u64::from(self.number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&spread);
        bytes[12..].copy_from_slice(&self.number.to_be_bytes());
        EndpointId::from_bytes(bytes)
    }

    /// Its addresses: the next ones, as those of the engine are, and the first ones again when all were had.
    pub(crate) fn addresses(&self, families: Families) -> Result<Vec<Address>> {
        const FIRST: u32 = 2;
        const COUNT: u32 = 4000;
        let number = FIRST + self.number % COUNT;
        let address = |text: &&str| {
            let subnet: Subnet = text.parse()?;
            let ip: IpAddr = match subnet.first() {
                IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits() + number).into(),
                IpAddr::V6(first) => {
                    std::net::Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into()
                }
            };
            subnet.address(ip)
        };
        let addresses: mica_core::Result<Vec<Address>> = SUBNETS.iter().map(address).collect();
        let mut addresses = addresses.map_err(|e| e.to_string())?;
        addresses.retain(|address| families.has(Family::of(address.ip())));
        Ok(addresses)
    }
}

/// Returns when the kernel has cleared away the links of all namespaces that were closed before: it takes them in the order
/// in which they were closed, and many at a time.
pub(crate) fn drain() -> Result<()> {
    let last = Namespace::new().map_err(failed("make a network namespace"))?;
    kernel::add_veth(FENCE, "eth0", Birth::default(), last.as_fd()).map_err(failed("make a link"))?;
    drop(last);
    let started = Instant::now();
    while if_nametoindex(FENCE).is_ok() {
        if started.elapsed() > PATIENCE {
            return Err("the kernel does not clear a closed namespace away".to_owned());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn go(namespace: &Namespace) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| format!("enter a network namespace: {e}"))
}

pub(crate) fn failed(doing: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("{doing}: {error}")
}
