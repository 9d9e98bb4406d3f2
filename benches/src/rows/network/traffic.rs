//! What goes through a published port, beside the same path set up by hand: a bridge, one rule that leads the port to the
//! container, one that masquerades.
//!
//! Both ends run on one processor. On two it is the scheduler that is measured: it keeps both ends on one or parts them, as it
//! likes, and a request takes twice as long where they are apart. On one every step of the path follows the other, so that
//! none is hidden behind another's wait, and the CPU time of both ends is all the time that there is.

use std::net::SocketAddr;
use std::rc::Rc;

use super::{Bound, Contender, HAND, Host, IPTABLES, NFT, Row, bridge};
use crate::network::by_hand::{BRIDGE, ByHand};
use crate::network::host::OWNER;
use crate::network::traffic::{Client, Server, Stay, stay};
use crate::network::{Connects, Container, HOST, IPV4};
use crate::rows::shell;
use crate::stage::Stage;
use crate::{Result, measure};

/// What two contenders that are the same differ by.
const AGAIN: &str = "by hand, again";
/// With the usual filter, which is nothing that the others are measured by.
const STATEFUL: &str = "by hand, stateful filter";
const INSIDE: u16 = 80;
const PUBLISHED: &str = "8080:80";
/// Of a transfer.
const LARGE: usize = 64 << 20;
/// In a turn, over one connection.
const REQUESTS: usize = 500;
/// In a turn, with a request each.
const CONNECTIONS: usize = 100;

/// The guards of nft that a packet meets, by the chains that they are.
const GUARDS: [(&str, &str); 4] = [
    ("nft without 'loopback'", "inet loopback"),
    ("nft without 'shield'", "inet shield"),
    ("nft without 'forwarded'", "inet forwarded"),
    ("nft without 'senders'", "bridge senders"),
];

/// What is done in a turn.
type Use = fn(SocketAddr) -> Result<()>;

const USES: [(&str, Use); 3] = [
    ("net.throughput", |server| Client::new(server)?.fetch(LARGE)),
    ("net.latency", requests),
    ("net.connect", |server| (0..CONNECTIONS).try_for_each(|_| Client::new(server)?.fetch(1))),
];

fn requests(server: SocketAddr) -> Result<()> {
    let mut client = Client::new(server)?;
    (0..REQUESTS).try_for_each(|_| client.fetch(1))
}

/// A container with a server, whose port is reached at its host's address.
struct Served<C: Connects> {
    way: Rc<C>,
    server: SocketAddr,
    _place: C::Place,
    _server: Server,
    _container: Container,
}

impl<C: Connects> Served<C> {
    fn new(way: Rc<C>, prepare: impl FnOnce(&Container, &mut C::Place) -> Result<()>) -> Result<Rc<Self>> {
        let container = way.machine().container()?;
        let mut place = way.place(&container)?;
        way.machine().enter()?;
        prepare(&container, &mut place)?;
        way.attach(&container, &mut place)?;
        way.machine().leave()?;
        let server = Server::new(&container.namespace, INSIDE)?;
        let host = HOST[0].split('/').next().unwrap_or_default();
        let at = format!("{host}:8080").parse().map_err(|e| format!("an address: {e}"))?;
        Ok(Rc::new(Self { way, server: at, _place: place, _server: server, _container: container }))
    }
}

/// By hand, with these chains beside those that lead.
fn by_hand(chains: &str) -> Result<Rc<Served<ByHand>>> {
    Served::new(Rc::new(ByHand::new(IPV4)?), |container, _| lead(container, chains))
}

fn of_driver(firewall: &str) -> Result<Option<Rc<Served<Host>>>> {
    let Some(host) = bridge(firewall, IPV4)? else { return Ok(None) };
    let served = Served::new(host, |_, place| {
        let port = PUBLISHED.parse().map_err(|e: mica_core::Error| e.to_string())?;
        place.endpoint.ports = vec![port];
        Ok(())
    });
    served.map(Some)
}

/// Large transfers, small requests, and connections.
pub(crate) fn traffic(_: &Stage) -> Result<Vec<Row<'_>>> {
    let hands = [(HAND, by_hand("")?), (AGAIN, by_hand("")?), (STATEFUL, by_hand(FILTER)?)];
    let mut bridges = Vec::new();
    for (name, firewall) in [(NFT, "nft"), (IPTABLES, "iptables")] {
        bridges.extend(of_driver(firewall)?.map(|served| (name, served)));
    }
    let row = |(name, using)| {
        let mut contenders: Vec<_> =
            hands.iter().map(|(name, served)| contender(name, served.clone(), using)).collect();
        contenders.extend(bridges.iter().map(|(name, served)| contender(name, served.clone(), using)));
        let compared = [AGAIN].into_iter().chain(bridges.iter().map(|(name, _)| *name));
        Row { name, contenders, bounds: compared.map(|name| Bound::as_fast(name, HAND)).collect() }
    };
    Ok(USES.into_iter().map(row).collect())
}

/// What each guard of nft takes of a request: the same without it.
pub(crate) fn guards(_: &Stage) -> Result<Vec<Row<'_>>> {
    let mut contenders = vec![contender(HAND, by_hand("")?, requests)];
    contenders.extend(of_driver("nft")?.map(|served| contender(NFT, served, requests)));
    for (name, chain) in GUARDS {
        let Some(served) = of_driver("nft")? else { continue };
        let (family, chain) = chain.split_once(' ').unwrap_or_default();
        served.way.machine().enter()?;
        // A chain without rules is still asked; where nothing refers to it, it can go.
        let table = format!("{family} mica_{OWNER}");
        measure::run(&mut shell(format!("nft 'flush chain {table} {chain}; delete chain {table} {chain}'")))?;
        served.way.machine().leave()?;
        contenders.push(contender(name, served, requests));
    }
    Ok(vec![Row { name: "net.guards", contenders, bounds: Vec::new() }])
}

fn contender<C: Connects + 'static>(name: &str, served: Rc<Served<C>>, using: Use) -> Contender<'static> {
    let (before, after) = (served.clone(), served.clone());
    Contender::call(name, move || using(served.server))
        .before(move || {
            stay(Stay::OnOne)?;
            before.way.machine().enter_outside()?;
            // Neighbours have forgotten each other meanwhile.
            Client::new(before.server)?.fetch(1)
        })
        .after(move || {
            after.way.machine().leave()?;
            stay(Stay::Anywhere)
        })
}

/// What lets answers pass, what comes from the bridge and what is led to it, and nothing else.
const FILTER: &str = "chain pass {
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    iifname bridge0 accept
    oifname bridge0 ct status dnat accept
}";

/// Leads the port to the container, on the host that the calling thread is on.
fn lead(container: &Container, chains: &str) -> Result<()> {
    let addresses = container.addresses(IPV4)?;
    let address = addresses.first().ok_or("a container without an address")?.ip();
    let rules = format!(
        "echo 1 > /proc/sys/net/ipv4/ip_forward
        nft -f - <<END
        table ip hand {{
            chain lead {{
                type nat hook prerouting priority dstnat
                tcp dport 8080 dnat to {address}:{INSIDE}
            }}
            chain leave {{
                type nat hook postrouting priority srcnat
                ip saddr {address} oifname != {BRIDGE} masquerade
            }}
            {chains}
        }}
END"
    );
    measure::run(&mut shell(rules)).map(drop)
}
