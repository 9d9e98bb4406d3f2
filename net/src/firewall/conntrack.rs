//! Forgetting connections: rules are asked once per connection, so an entry that was made under other rules goes on as they were.
//! Nothing else ends those of UDP while packets keep coming (moby#8795).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, UdpSocket};

use mica_core::{Error, Result};

use super::nfnetlink::{Attributes, Message, Netfilter, attributes, find, number};
use super::{Lead, Numbered};

const GET: i32 = 1;
const DELETE: i32 = 2;
const STATISTICS: i32 = 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;

/// Forgets every connection to these ports of the host, wherever it leads by now.
pub(crate) fn forget(leads: &[Lead]) -> Result<()> {
    if leads.is_empty() {
        return Ok(());
    }
    try_forget(leads).map_err(Error::io(|| "forget the connections of published ports"))
}

fn try_forget(leads: &[Lead]) -> io::Result<()> {
    let mut nl = Netfilter::open()?;
    if knows_none(&mut nl)? {
        return Ok(());
    }
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

/// Whether no connection is known at all. To read them the kernel walks the table that all namespaces share, some 10 ms for its
/// default size, whatever is in it.
fn knows_none(nl: &mut Netfilter) -> io::Result<bool> {
    let all = Message::new(libc::NFNL_SUBSYS_CTNETLINK, STATISTICS, libc::AF_UNSPEC, Attributes::new());
    Ok(match nl.get(&all) {
        Ok(Some(answer)) => number(&answer.attributes, CTA_STATS_GLOBAL_ENTRIES) == Some(0),
        // An old kernel, which says it by reading them.
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
            forget(&[lead(None, 5000), lead(Some("127.0.0.1"), 5001), lead(Some("127.0.0.2"), 5002)])
                .unwrap();
            assert_eq!([5000, 5001, 5002].map(known), [0, 0, 1]);
            Ok(())
        };
        played::on(&played::machine(), work).unwrap();
    }
}
