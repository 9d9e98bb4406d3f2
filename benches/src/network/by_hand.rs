//! The least that connecting a container takes: one message that makes both links, one batch of messages inside.
//!
//! Nothing is looked at first, nothing is guarded, and what fails half-way stays.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;

use mica_conformance::network::kernel;
use mica_core::network::{Address, Families, Family, Subnet};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;

use super::messages::{Batch, Connection};
use super::{Connects, Container, Machine, SUBNETS, failed};
use crate::{Result, measure};

pub(crate) const BRIDGE: &str = "bridge0";
const REQUEST: i32 = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
const CREATE: i32 = REQUEST | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// `VETH_INFO_PEER` of linux/veth.h.
const PEER: u16 = 1;
/// Chosen, so that nobody must ask for it.
const INNER: u32 = 2;

/// A host with a bridge.
#[derive(Debug)]
pub(crate) struct ByHand {
    machine: Machine,
    bridge: u32,
    families: Families,
}

/// Where a container comes.
#[derive(Debug)]
pub(crate) struct Place {
    link: String,
    addresses: Vec<Address>,
}

impl ByHand {
    pub(crate) fn new(families: Families) -> Result<Self> {
        let mut machine = Machine::new()?;
        let gateways = gateways(families)?;
        let made = machine.here().inside(|| {
            kernel::add_bridge(BRIDGE)?;
            gateways.iter().try_for_each(|gateway| kernel::add_address(BRIDGE, *gateway))?;
            kernel::set_up(BRIDGE, true)?;
            Ok(if_nametoindex(BRIDGE)?)
        });
        let bridge = made.map_err(failed("make a bridge"))?;
        machine.furnished()?;
        Ok(Self { machine, bridge, families })
    }
}

/// The first address of each subnet is the bridge's.
fn gateways(families: Families) -> Result<Vec<Address>> {
    let gateway = |text: &&str| {
        let subnet: Subnet = text.parse()?;
        let text = text.replace(".0/", ".1/").replace("::/", "::1/");
        Ok(text.parse::<Address>()?).map(|gateway| (subnet, gateway))
    };
    let gateways: mica_core::Result<Vec<_>> = SUBNETS.iter().map(gateway).collect();
    let gateways = gateways.map_err(|e| e.to_string())?.into_iter();
    Ok(gateways.filter(|(subnet, _)| families.has(subnet.family())).map(|(_, gateway)| gateway).collect())
}

impl Place {
    /// Its end on the host.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }
}

impl Connects for ByHand {
    type Place = Place;

    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn place(&self, container: &Container) -> Result<Place> {
        let addresses = container.addresses(self.families)?;
        Ok(Place { link: format!("hand{}", container.number), addresses })
    }

    fn attach(&self, container: &Container, place: &mut Place) -> Result<()> {
        let namespace = container.namespace.as_fd();
        let mut birth = Batch::default();
        pair(&mut birth, &place.link, self.bridge, namespace);
        Connection::open(SockProtocol::NetlinkRoute)?.tell(&birth)?;
        let go = |namespace: BorrowedFd<'_>| {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|e| format!("enter a network namespace: {e}"))
        };
        go(namespace)?;
        let inside = Connection::open(SockProtocol::NetlinkRoute);
        go(self.machine.here().as_fd())?;
        let mut batch = Batch::default();
        batch.message(libc::RTM_NEWLINK, REQUEST, &link(INNER, libc::IFF_UP), |_| ());
        for address in &place.addresses {
            add_address(&mut batch, *address);
        }
        for gateway in gateways(self.families)? {
            add_route(&mut batch, gateway);
        }
        inside?.tell(&batch)
    }

    /// Both links went with the namespace.
    fn detach(&self, _: Place) -> Result<()> {
        Ok(())
    }

    fn check_empty(&self) -> Result<()> {
        self.machine.check_links()
    }
}

/// A host with a map of published ports, and a connection that is open: the least that publishing a port takes.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) machine: Machine,
    connection: Connection,
}

impl Map {
    const MAKE: &str = "add table ip hand; add map ip hand ports { type inet_proto . inet_service : ipv4_addr . inet_service; }";
    const EMPTY: &str = "flush map ip hand ports";

    pub(crate) fn new() -> Result<Self> {
        let machine = Machine::new()?;
        machine.enter()?;
        nft(Self::MAKE)?;
        let connection = Connection::open(SockProtocol::NetlinkNetFilter);
        machine.leave()?;
        Ok(Self { machine, connection: connection? })
    }

    /// Leads a port of the host to one of a container.
    pub(crate) fn publish(&self, host: u16, container: (Ipv4Addr, u16)) -> Result<()> {
        // As in linux/netfilter/nf_tables.h.
        const TABLE: u16 = 1;
        const SET: u16 = 2;
        const ELEMENTS: u16 = 3;
        const ELEMENT: u16 = 1;
        const KEY: u16 = 1;
        const DATA: u16 = 2;
        const VALUE: u16 = 1;
        let key = [[libc::IPPROTO_TCP as u8, 0, 0, 0], padded(host)].concat();
        let data = [container.0.octets(), padded(container.1)].concat();
        let subsystem = libc::NFNL_SUBSYS_NFTABLES as u16;
        let [high, low] = subsystem.to_be_bytes();
        let mut batch = Batch::default();
        batch.message(libc::NFNL_MSG_BATCH_BEGIN as u16, libc::NLM_F_REQUEST, &[0, 0, high, low], |_| ());
        let kind = subsystem << 8 | libc::NFT_MSG_NEWSETELEM as u16;
        batch.message(kind, CREATE, &[libc::NFPROTO_IPV4 as u8, 0, 0, 0], |message| {
            message.text(TABLE, "hand").text(SET, "ports").nest(ELEMENTS, |list| {
                list.nest(ELEMENT, |element| {
                    element.nest(KEY, |within| {
                        within.put(VALUE, &key);
                    });
                    element.nest(DATA, |within| {
                        within.put(VALUE, &data);
                    });
                });
            });
        });
        batch.message(libc::NFNL_MSG_BATCH_END as u16, libc::NLM_F_REQUEST, &[0, 0, high, low], |_| ());
        self.connection.tell(&batch)
    }

    /// The calling thread is on the host.
    pub(crate) fn empty(&self) -> Result<()> {
        nft(Self::EMPTY)
    }
}

fn nft(command: &str) -> Result<()> {
    measure::run(Command::new("nft").arg(command)).map(drop)
}

fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// A `struct ifinfomsg`, which sets these flags.
fn link(index: u32, flags: i32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..].copy_from_slice(&flags.to_ne_bytes());
    head
}

/// The outer link is up from its birth. The inner one cannot be: the pair is not one yet.
fn pair(batch: &mut Batch, name: &str, bridge: u32, namespace: BorrowedFd<'_>) {
    batch.message(libc::RTM_NEWLINK, CREATE, &link(0, libc::IFF_UP), |outer| {
        outer.text(libc::IFLA_IFNAME, name).number(libc::IFLA_MASTER, bridge);
        outer.number(libc::IFLA_NUM_TX_QUEUES, 1).number(libc::IFLA_NUM_RX_QUEUES, 1);
        outer.nest(libc::IFLA_LINKINFO, |info| {
            info.put(libc::IFLA_INFO_KIND, b"veth");
            info.nest(libc::IFLA_INFO_DATA, |data| {
                data.within(PEER, &link(INNER, 0), |inner| {
                    inner.text(libc::IFLA_IFNAME, "eth0");
                    inner.number(libc::IFLA_NUM_TX_QUEUES, 1).number(libc::IFLA_NUM_RX_QUEUES, 1);
                    inner.number(libc::IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                });
            });
        });
    });
}

fn add_address(batch: &mut Batch, address: Address) {
    let mut head = vec![family(address), address.prefix(), libc::IFA_F_NODAD as u8, 0];
    head.extend_from_slice(&INNER.to_ne_bytes());
    let ip = octets(address);
    batch.message(libc::RTM_NEWADDR, CREATE, &head, |attributes| {
        attributes.put(libc::IFA_LOCAL, &ip).put(libc::IFA_ADDRESS, &ip);
    });
}

/// Everything else is reached by this gateway.
fn add_route(batch: &mut Batch, gateway: Address) {
    let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
    let head =
        [family(gateway), 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST, 0, 0, 0, 0];
    batch.message(libc::RTM_NEWROUTE, CREATE, &head, |attributes| {
        attributes.put(libc::RTA_GATEWAY, &octets(gateway)).number(libc::RTA_OIF, INNER);
    });
}

fn family(address: Address) -> u8 {
    let family = match Family::of(address.ip()) {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    family as u8
}

fn octets(address: Address) -> Vec<u8> {
    match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
