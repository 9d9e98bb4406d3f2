//! Forgetting connections: rules are asked once per connection, so an entry that was made under other rules goes on as they were.
//! Nothing else ends those of UDP while packets keep coming (moby#8795).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, UdpSocket};

use mica_core::{Error, Result};

use super::nfnetlink::{Attributes, Message, Netfilter, attributes, find, number};
use super::{Lead, Numbered};
use crate::netlink::{Netlink, address};

const GET: i32 = 1;
const DELETE: i32 = 2;
const STATISTICS: i32 = 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;

/// Which parts of a tuple count (`CTA_FILTER_F_*`).
const IP_SRC: u32 = 1;
const IP_DST: u32 = 1 << 1;
const PROTO_NUM: u32 = 1 << 3;
const PROTO_DST_PORT: u32 = 1 << 5;

/// For so many deletions the kernel walks its table faster, some 0.1 ms each, than it reads it once, where it takes a lock for
/// each of its places: 10 ms for a table of the default size, which is that of all namespaces, whatever is in it.
const WALKS: usize = 64;

/// Forgets every connection to these ports of the host, wherever it leads by now.
pub(crate) fn forget(nl: &mut Netfilter, leads: &[Lead]) -> Result<()> {
    if leads.is_empty() || knows_none(nl).map_err(failed())? {
        return Ok(());
    }
    let all = address::all(&mut Netlink::open()?)?;
    let here =
        |to: IpAddr| all.iter().map(|(_, has)| has.ip()).filter(move |ip| ip.is_ipv4() == to.is_ipv4());
    let at = |lead: &Lead| match lead.at {
        Some(at) => vec![at],
        None => here(lead.to).collect(),
    };
    let each = |lead: &Lead| {
        let (at, protocol) = (at(lead), lead.protocol.number());
        lead.host
            .ports()
            .flat_map(move |port| at.clone().into_iter().map(move |at| Meant::To { at, protocol, port }))
    };
    let meant: Vec<_> = leads.iter().flat_map(each).take(WALKS + 1).collect();
    delete(nl, &meant, leads).map_err(failed())
}

/// Forgets every connection that is answered by where these lead: nobody is there any more.
pub(crate) fn forget_answered(nl: &mut Netfilter, leads: &[Lead]) -> Result<()> {
    if leads.is_empty() || knows_none(nl).map_err(failed())? {
        return Ok(());
    }
    let targets: HashSet<IpAddr> = leads.iter().map(|lead| lead.to).collect();
    let meant: Vec<_> = targets.into_iter().map(Meant::AnsweredBy).collect();
    delete(nl, &meant, leads).map_err(failed())
}

fn failed() -> impl FnOnce(io::Error) -> Error {
    Error::io(|| "forget the connections of published ports")
}

/// Connections that the kernel finds by itself.
enum Meant {
    To { at: IpAddr, protocol: u8, port: u16 },
    AnsweredBy(IpAddr),
}

impl Meant {
    /// What deletes all of them.
    fn deletion(&self) -> Message {
        let new = Attributes::new;
        let ip = |ip: &IpAddr, v4, v6| match ip {
            IpAddr::V4(ip) => new().nest(CTA_TUPLE_IP, &new().bytes(v4, &ip.octets())),
            IpAddr::V6(ip) => new().nest(CTA_TUPLE_IP, &new().bytes(v6, &ip.octets())),
        };
        let (at, kind, tuple, flags) = match self {
            Self::To { at, protocol, port } => {
                let protocol = new().bytes(CTA_PROTO_NUM, &[*protocol]);
                let protocol = protocol.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                let tuple = ip(at, 2, 4).nest(CTA_TUPLE_PROTO, &protocol);
                (at, CTA_TUPLE_ORIG, tuple, [IP_DST | PROTO_NUM | PROTO_DST_PORT, 0])
            }
            Self::AnsweredBy(at) => (at, CTA_TUPLE_REPLY, ip(at, 1, 3), [0, IP_SRC]),
        };
        let filter = new().bytes(1, &flags[0].to_ne_bytes()).bytes(2, &flags[1].to_ne_bytes());
        let family = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let attributes = new().nest(kind, &tuple).nest(CTA_FILTER, &filter);
        Message::new(libc::NFNL_SUBSYS_CTNETLINK, DELETE, family, attributes)
    }
}

/// Deletes these. Where they are too many, or the kernel takes no filter for a deletion (before Linux 6.10), all connections
/// are read, and those of these ports deleted.
fn delete(nl: &mut Netfilter, meant: &[Meant], leads: &[Lead]) -> io::Result<()> {
    if meant.len() > WALKS {
        return read_and_delete(nl, leads);
    }
    for meant in meant {
        if nl.tell(&meant.deletion()).is_err() {
            return read_and_delete(nl, leads);
        }
    }
    Ok(())
}

fn read_and_delete(nl: &mut Netfilter, leads: &[Lead]) -> io::Result<()> {
    let wanted = Wanted::of(leads);
    let all = Message::new(libc::NFNL_SUBSYS_CTNETLINK, GET, libc::AF_UNSPEC, Attributes::new());
    let entries = match nl.dump(&all) {
        // A kernel that cannot name its connections.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let Some(original) = find(&entry.attributes, CTA_TUPLE_ORIG) else { continue };
        if !Tuple::read(original).is_some_and(|way| wanted.has(&way)) {
            continue;
        }
        let mut named = Attributes::new();
        for (kind, value) in attributes(&entry.attributes) {
            match kind {
                CTA_TUPLE_ORIG => named = named.bytes(kind | 0x8000, value),
                CTA_ID => named = named.bytes(kind, value),
                _ => {}
            }
        }
        let delete = Message::new(libc::NFNL_SUBSYS_CTNETLINK, DELETE, entry.family.into(), named);
        match nl.tell(&delete) {
            // It ended by itself.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Whether no connection is known at all.
fn knows_none(nl: &mut Netfilter) -> io::Result<bool> {
    let ask = Message::new(libc::NFNL_SUBSYS_CTNETLINK, STATISTICS, libc::AF_UNSPEC, Attributes::new());
    Ok(match nl.get(&ask) {
        Ok(Some(answer)) => number(&answer.attributes, CTA_STATS_GLOBAL_ENTRIES) == Some(0),
        // An old kernel, which shows it by reading them.
        _ => false,
    })
}

/// Which connections are meant.
struct Wanted {
    everywhere: HashSet<(u8, u16, bool)>,
    at: HashSet<(u8, u16, IpAddr)>,
}

impl Wanted {
    fn of(leads: &[Lead]) -> Self {
        let mut wanted = Self { everywhere: HashSet::new(), at: HashSet::new() };
        for lead in leads {
            let protocol = lead.protocol.number();
            match lead.at {
                Some(at) => wanted.at.extend(lead.host.ports().map(|port| (protocol, port, at))),
                None => {
                    wanted
                        .everywhere
                        .extend(lead.host.ports().map(|port| (protocol, port, lead.to.is_ipv4())));
                }
            }
        }
        wanted
    }

    fn has(&self, way: &Tuple) -> bool {
        self.everywhere.contains(&(way.protocol, way.port, way.destination.is_ipv4()))
            && is_here(way.destination)
            || self.at.contains(&(way.protocol, way.port, way.destination))
    }
}

/// Whether it is an address of this host: to no other can a socket be bound.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Where a connection was opened to.
struct Tuple {
    destination: IpAddr,
    protocol: u8,
    port: u16,
}

impl Tuple {
    /// `None` for what has no ports.
    fn read(tuple: &[u8]) -> Option<Self> {
        let (ip, proto) = (find(tuple, 1)?, find(tuple, 2)?);
        let v4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(find(ip, kind)?).ok()?));
        let v6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(find(ip, kind)?).ok()?));
        Some(Self {
            destination: v4(2).or_else(|| v6(4))?,
            protocol: *find(proto, 1)?.first()?,
            port: u16::from_be_bytes(find(proto, 3)?.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use mica_core::network::{PortRange, Protocol};

    use super::*;
    use crate::played;

    /// How many connections are known to a port.
    fn known(port: u16) -> usize {
        let all = Message::new(libc::NFNL_SUBSYS_CTNETLINK, GET, libc::AF_UNSPEC, Attributes::new());
        let entries = Netfilter::open().unwrap().dump(&all).unwrap();
        let tuples = entries.iter().filter_map(|entry| find(&entry.attributes, CTA_TUPLE_ORIG));
        tuples.filter_map(Tuple::read).filter(|way| way.port == port).count()
    }

    fn run(program: &str, args: &[&str]) {
        assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    }

    #[test]
    fn connections_to_a_port_are_forgotten_and_no_others() {
        let work = || {
            run("ip", &["link", "set", "lo", "up"]);
            let chain = "add chain inet t c { type filter hook output priority 0; }";
            // Connections are tracked where a rule asks for them.
            run("nft", &[&format!("add table inet t; {chain}; add rule inet t c ct state new accept")]);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            for port in [5000, 5001, 5002] {
                client.send_to(b"x", ("127.0.0.1", port)).unwrap();
            }
            let port = |number| PortRange::one(number).unwrap();
            let lead = |at: Option<&str>, number| Lead {
                protocol: Protocol::Udp,
                at: at.map(|at| at.parse().unwrap()),
                host: port(number),
                to: "172.30.0.2".parse().unwrap(),
                container: port(80),
            };
            let leads = [lead(None, 5000), lead(Some("127.0.0.1"), 5001), lead(Some("127.0.0.2"), 5002)];
            forget(&mut Netfilter::open().unwrap(), &leads).unwrap();
            assert_eq!([5000, 5001, 5002].map(known), [0, 0, 1]);
            client.send_to(b"x", ("127.0.0.2", 5003)).unwrap();
            let answered = Lead { to: "127.0.0.2".parse().unwrap(), ..lead(None, 5000) };
            forget_answered(&mut Netfilter::open().unwrap(), &[answered]).unwrap();
            assert_eq!([5002, 5003].map(known), [1, 0]);
            let many = Lead { host: "5000-5999".parse().unwrap(), ..lead(None, 1) };
            forget(&mut Netfilter::open().unwrap(), &[many]).unwrap();
            assert_eq!(known(5002), 0, "too many to be deleted one by one");
            Ok(())
        };
        played::on(&played::machine(), work).unwrap();
    }
}
