//! Networks: what connecting a container takes, beside the least that it could, and what a published port does.

mod plugin;
mod publish;
mod record;
mod reserve;
mod traffic;

use std::cell::RefCell;
use std::rc::Rc;

use mica_core::network::Families;
use mica_net::{BRIDGE, MACVLAN};

use super::{Bound, Contender, Row, What};
use crate::Result;
use crate::network::by_hand::ByHand;
use crate::network::host::Host;
use crate::network::{BOTH, Connects, Container, IPV4, Machine};
use crate::stage::Stage;

pub(super) use plugin::plugin;
pub(super) use publish::publish;
pub(super) use record::record;
pub(super) use reserve::reserve;
pub(super) use traffic::{guards, traffic};

const NFT: &str = "bridge, nft";
const IPTABLES: &str = "bridge, iptables";
const NO_FIREWALL: &str = "bridge, no firewall";
const MACVLANS: &str = "macvlan";
const HAND: &str = "by hand";
const NFT_V4: &str = "bridge, nft, IPv4 alone";
const HAND_V4: &str = "by hand, IPv4 alone";

/// In the last rows.
const MANY: usize = 100;

/// A container, and where it comes.
type Placed<C> = (Container, <C as Connects>::Place);

/// A bridge with this firewall.
fn bridge(firewall: &str, families: Families) -> Result<Option<Rc<Host>>> {
    Ok(Host::new(&BRIDGE, &[("firewall", firewall)], families)?.map(Rc::new))
}

/// Every driver, with the name of its contender.
fn drivers() -> Result<Vec<(&'static str, Rc<Host>)>> {
    let hosts = [
        (NFT, bridge("nft", BOTH)?),
        (IPTABLES, bridge("iptables", BOTH)?),
        (NO_FIREWALL, bridge("none", BOTH)?),
        (MACVLANS, Host::new(&MACVLAN, &[], BOTH)?.map(Rc::new)),
    ];
    Ok(hosts.into_iter().filter_map(|(name, host)| Some((name, host?))).collect())
}

/// One container, in a namespace that is there already; and what is looked at before.
pub(super) fn attach(_: &Stage) -> Result<Vec<Row<'_>>> {
    let mut contenders =
        vec![one(HAND_V4, Rc::new(ByHand::new(IPV4)?)), one(HAND, Rc::new(ByHand::new(BOTH)?))];
    let mut bounds = Vec::new();
    if let Some(host) = bridge("nft", IPV4)? {
        contenders.push(one(NFT_V4, host));
        for what in [What::Cpu, What::Wall] {
            bounds.push(Bound::ratio(what, NFT_V4, HAND_V4, 2.0));
            bounds.push(Bound::ratio(what, NFT, HAND, 2.0));
        }
    }
    let drivers = drivers()?;
    contenders.extend(drivers.iter().map(|(name, host)| one(name, host.clone())));
    let attach = Row { name: "net.attach", contenders, bounds };
    let contenders = drivers.into_iter().map(|(name, host)| {
        let entered = host.clone();
        let left = host.clone();
        Contender::call(name, move || host.up())
            .before(move || entered.machine().enter())
            .after(move || left.machine().leave())
    });
    let up = Row { name: "net.up", contenders: contenders.collect(), bounds: Vec::new() };
    Ok(vec![attach, up])
}

/// Connects one container, and takes it away again.
fn one<C: Connects + 'static>(name: &str, way: Rc<C>) -> Contender<'static> {
    let (made, attached, detached) = (way.clone(), way.clone(), way);
    let kept = Rc::new(RefCell::new(None));
    let (taken, given) = (kept.clone(), kept.clone());
    Contender::call(name, move || match &mut *kept.borrow_mut() {
        Some((container, place)) => attached.attach(container, place),
        None => Ok(()),
    })
    .before(move || {
        let container = made.machine().container()?;
        let place = made.place(&container)?;
        *given.borrow_mut() = Some((container, place));
        made.machine().enter()
    })
    .after(move || {
        close(&*detached, taken.take().into_iter().collect())?;
        settle(&*detached)
    })
}

/// Closes the namespaces of containers, and takes away what is left of them.
fn close<C: Connects>(way: &C, containers: Vec<Placed<C>>) -> Result<()> {
    containers.into_iter().try_for_each(|(container, place)| {
        drop(container);
        way.detach(place)
    })
}

/// Waits until all that was closed is gone, and fails where it is not.
fn settle(way: &impl Connects) -> Result<()> {
    way.machine().drain()?;
    way.machine().enter()?;
    way.check_empty()?;
    way.machine().leave()
}

/// A hundred containers, one after the other, and all of them away again.
pub(super) fn hundred(_: &Stage) -> Result<Vec<Row<'_>>> {
    let hand = Rc::new(ByHand::new(BOTH)?);
    let drivers = drivers()?;
    let row = |name, step: Step| {
        let mut contenders = vec![many(HAND, hand.clone(), step)];
        contenders.extend(drivers.iter().map(|(name, host)| many(name, host.clone(), step)));
        Row { name, contenders, bounds: Vec::new() }
    };
    let mut drained = row("net.hundred.drained", Step::Drain);
    let machine = Rc::new(Machine::new()?);
    // What finding out takes by itself.
    drained.contenders.push(Contender::call("nothing but the wait", move || machine.drain()));
    Ok(vec![row("net.hundred.attach", Step::Attach), row("net.hundred.detach", Step::Detach), drained])
}

/// Which part of a life is measured.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Attach,
    Detach,
    /// The detaching, until the kernel has done its part.
    Drain,
}

fn many<C: Connects + 'static>(name: &str, way: Rc<C>, step: Step) -> Contender<'static> {
    let (before, after) = (way.clone(), way.clone());
    let kept: Rc<RefCell<Vec<Placed<C>>>> = Rc::default();
    let (made, left) = (kept.clone(), kept.clone());
    let attach = |way: &C, all: &mut Vec<Placed<C>>| {
        all.iter_mut().try_for_each(|(container, place)| way.attach(container, place))
    };
    Contender::call(name, move || match step {
        Step::Attach => attach(&way, &mut kept.borrow_mut()),
        Step::Detach => close(&*way, kept.take()),
        Step::Drain => {
            close(&*way, kept.take())?;
            way.machine().drain()
        }
    })
    .before(move || {
        for _ in 0..MANY {
            let container = before.machine().container()?;
            let place = before.place(&container)?;
            made.borrow_mut().push((container, place));
        }
        before.machine().enter()?;
        if step == Step::Attach { Ok(()) } else { attach(&before, &mut made.borrow_mut()) }
    })
    .after(move || {
        after.machine().enter()?;
        close(&*after, left.take())?;
        settle(&*after)
    })
}
