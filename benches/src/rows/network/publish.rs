//! Ports of a container that runs, published beside none and beside many.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use mica_core::network::Port;

use super::{Bound, Contender, HAND, Host, IPTABLES, NFT, Row, What, bridge};
use crate::Result;
use crate::network::by_hand::Map;
use crate::network::host::Place;
use crate::network::{BOTH, Connects, Container};
use crate::stage::Stage;

const NFT_1000: &str = "nft, beside 1,000";
const NFT_10000: &str = "nft, beside 10,000";
const IPTABLES_1000: &str = "iptables, beside 1,000";
/// Each neighbour publishes so many.
const EACH: u16 = 1000;
/// The first port of the first neighbour.
const FIRST: u16 = 20_000;

/// A host with a container, and with neighbours that publish ports.
struct Street {
    host: Rc<Host>,
    container: RefCell<(Container, Place)>,
    /// They are there as long as their namespaces are.
    _neighbours: Vec<(Container, Place)>,
}

impl Street {
    fn new(firewall: &str, neighbours: u16) -> Result<Option<Rc<Self>>> {
        let Some(host) = bridge(firewall, BOTH)? else { return Ok(None) };
        let settle = |ports: Vec<Port>| {
            let container = host.machine().container()?;
            let mut place = host.place(&container)?;
            place.endpoint.ports = ports;
            host.attach(&container, &mut place)?;
            Ok::<_, String>((container, place))
        };
        host.machine().enter()?;
        let ports = |number: u16| {
            let first = FIRST + number * EACH;
            (first..first + EACH).map(|port| published(&format!("{port}:80"))).collect::<Result<_>>()
        };
        let neighbours: Result<Vec<_>> = (0..neighbours).map(|number| settle(ports(number)?)).collect();
        let container = RefCell::new(settle(Vec::new())?);
        host.machine().leave()?;
        Ok(Some(Rc::new(Self { host, container, _neighbours: neighbours? })))
    }

    fn publish(&self, ports: &[Port]) -> Result<()> {
        let (container, place) = &mut *self.container.borrow_mut();
        self.host.publish(container, place, ports.to_vec())
    }
}

/// One port, and a thousand of a range.
pub(crate) fn publish(_: &Stage) -> Result<Vec<Row<'_>>> {
    let streets = [
        (NFT, Street::new("nft", 0)?),
        (NFT_1000, Street::new("nft", 1)?),
        (NFT_10000, Street::new("nft", 10)?),
        (IPTABLES, Street::new("iptables", 0)?),
        (IPTABLES_1000, Street::new("iptables", 1)?),
    ];
    let row = |name, port: &str, bounds| {
        let port = published(port)?;
        let there = streets.iter().filter_map(|(name, street)| Some((*name, street.clone()?)));
        Ok::<_, String>(Row {
            name,
            contenders: there.map(|(name, it)| contender(name, it, port)).collect(),
            bounds,
        })
    };
    let one = vec![
        Bound::most(What::Wall, NFT, 0.05),
        Bound::most(What::Wall, NFT_10000, 0.05),
        Bound::ratio(What::Wall, NFT_10000, NFT, 1.2),
    ];
    let mut one = row("net.publish", "8080:80", one)?;
    one.contenders.insert(0, by_hand()?);
    Ok(vec![one, row("net.publish.range", "3000-3999:3000-3999", vec![Bound::most(What::Wall, NFT, 5.0)])?])
}

fn by_hand() -> Result<Contender<'static>> {
    let map = Rc::new(Map::new()?);
    let (before, after) = (map.clone(), map.clone());
    let call = move || map.publish(8080, (Ipv4Addr::new(10, 101, 0, 2), 80));
    Ok(Contender::call(HAND, call).before(move || before.machine.enter()).after(move || {
        after.empty()?;
        after.machine.leave()
    }))
}

fn contender(name: &str, street: Rc<Street>, port: Port) -> Contender<'static> {
    let (before, after) = (street.clone(), street.clone());
    Contender::call(name, move || street.publish(&[port]))
        .before(move || before.host.machine().enter())
        .after(move || {
            after.publish(&[])?;
            after.host.machine().leave()
        })
}

fn published(text: &str) -> Result<Port> {
    text.parse().map_err(|e: mica_core::Error| e.to_string())
}
