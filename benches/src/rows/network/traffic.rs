//! What goes through a published port, beside the same path set up by hand: a bridge, one rule that leads the port to the
//! container, one that masquerades.

use std::net::SocketAddr;
use std::rc::Rc;

use super::{Bound, Contender, HAND, IPTABLES, NFT, Row, bridge};
use crate::network::by_hand::ByHand;
use crate::network::traffic::{Client, Server};
use crate::network::{Connects, Container, HOST, IPV4};
use crate::rows::shell;
use crate::stage::Stage;
use crate::{Result, measure};

const INSIDE: u16 = 80;
const PUBLISHED: &str = "8080:80";
/// Of a transfer.
const LARGE: usize = 64 << 20;
/// In a turn, over one connection.
const REQUESTS: usize = 500;
/// In a turn, with a request each.
const CONNECTIONS: usize = 100;

/// What is done in a turn.
type Use = fn(SocketAddr) -> Result<()>;

const USES: [(&str, Use); 3] = [
    ("net.throughput", |server| Client::new(server)?.fetch(LARGE)),
    ("net.latency", |server| {
        let mut client = Client::new(server)?;
        (0..REQUESTS).try_for_each(|_| client.fetch(1))
    }),
    ("net.connect", |server| (0..CONNECTIONS).try_for_each(|_| Client::new(server)?.fetch(1))),
];

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

/// Large transfers, small requests, and connections.
pub(crate) fn traffic(_: &Stage) -> Result<Vec<Row<'_>>> {
    let by_hand = Served::new(Rc::new(ByHand::new(IPV4)?), |container, _| lead(container))?;
    let mut bridges = Vec::new();
    for (name, firewall) in [(NFT, "nft"), (IPTABLES, "iptables")] {
        let Some(host) = bridge(firewall, IPV4)? else { continue };
        let served = Served::new(host, |_, place| {
            let port = PUBLISHED.parse().map_err(|e: mica_core::Error| e.to_string())?;
            place.endpoint.ports = vec![port];
            Ok(())
        })?;
        bridges.push((name, served));
    }
    let row = |(name, using)| {
        let mut contenders = vec![contender(HAND, by_hand.clone(), using)];
        contenders.extend(bridges.iter().map(|(name, served)| contender(name, served.clone(), using)));
        let bounds = bridges.iter().map(|(name, _)| Bound::as_fast(name, HAND)).collect();
        Row { name, contenders, bounds }
    };
    Ok(USES.into_iter().map(row).collect())
}

fn contender<C: Connects + 'static>(name: &str, served: Rc<Served<C>>, using: Use) -> Contender<'static> {
    let (before, after) = (served.clone(), served.clone());
    Contender::call(name, move || using(served.server))
        .before(move || {
            before.way.machine().enter_outside()?;
            // Neighbours have forgotten each other meanwhile.
            Client::new(before.server)?.fetch(1)
        })
        .after(move || after.way.machine().leave())
}

/// Leads the port to the container, on the host that the calling thread is on.
fn lead(container: &Container) -> Result<()> {
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
                ip saddr {address} oifname != bridge0 masquerade
            }}
        }}
END"
    );
    measure::run(&mut shell(rules)).map(drop)
}
