//! What somebody else broke: it is told by `check`, and mended by `up`.

use std::os::fd::AsFd;

use mica_core::Error;
use mica_core::network::{Family, Scope};

use super::attach::{default_routes, reach_each_other};
use super::list;
use crate::network::case::nothing;
use crate::network::kernel;
use crate::network::snapshot::Snapshot;
use crate::network::stage::{V4_DEFAULT, V6_DEFAULT, subnet};
use crate::network::{Placed, Stage};
use crate::outcome::{Doing, Stop, Verdict, ensure, variant};

list! {
    "check-touches-nothing" touches_nothing =
        "check touches nothing, and finds nothing wrong with what was just attached";
    "check-finds-what-is-missing-inside" missing_inside =
        "check tells an interface that is gone or down, an address and a default route that are missing",
        Addresses else nothing;
    "check-finds-what-is-wrong-inside" wrong_inside =
        "check tells an MTU and a hardware address that somebody changed",
        Addresses else nothing;
    "check-names-everything" names_everything =
        "the reason names everything that is missing, not only the first",
        GivenAddresses else nothing;
    "check-finds-what-is-missing-outside" missing_outside =
        "check tells what is missing of the network itself",
        Addresses else nothing;
    "check-finds-flushed-rules" flushed_rules =
        "check tells that the rules were flushed, where there were any",
        Addresses else nothing;
    "up-tells-what-it-rebuilt" up_tells =
        "up says that it rebuilt the network the first time, and after somebody took something of it away",
        Addresses else nothing;
    "update-mends" update_mends =
        "an update to what there was mends what somebody took away of the endpoint outside of its container",
        Live else nothing;
    "up-mends" up_mends =
        "up mends what somebody took away of the network",
        Addresses else nothing;
}

fn touches_nothing(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let host = Snapshot::now()?;
    let inside = placed.inside(|| Ok(Snapshot::now()))??;
    stage.check(&placed).doing(|| "check")?;
    let Placed { network, endpoint, was, namespace } = &placed;
    let again = stage.reopened()?;
    again.check(network, endpoint, was, namespace.as_fd()).doing(|| "check by another process")?;
    Snapshot::now()?.is_same_as(&host, "on the host, after check")?;
    placed.inside(|| Ok(Snapshot::now()))??.is_same_as(&inside, "inside, after check")
}

/// Fails unless `check` says that it is damaged. Answers the reason.
fn is_told(stage: &Stage<'_>, placed: &Placed, what: &str) -> Verdict<String> {
    match stage.check(placed) {
        Err(Error::Corrupt { reason, .. }) => Ok(reason),
        Err(other) => Err(Stop::failed(format!(
            "{what}: check answered '{other}' ({}), expected Corrupt",
            variant(&other)
        ))),
        Ok(()) => Err(Stop::failed(format!("{what}: check finds nothing wrong"))),
    }
}

fn missing_inside(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let name = placed.interface();
    for family in stage.families() {
        let to = subnet(if family == Family::V4 { V4_DEFAULT } else { V6_DEFAULT })?;
        for gateway in default_routes(&placed, family)?.iter().filter_map(|route| route.gateway) {
            placed.inside(|| kernel::remove_route(to, gateway))?;
            is_told(stage, &placed, &format!("no default route in {family}"))?;
            placed.inside(|| kernel::add_route(to, gateway))?;
        }
    }
    stage.check(&placed).doing(|| "check of what was put back")?;
    placed.inside(|| kernel::set_up(name, false))?;
    is_told(stage, &placed, "the interface is down")?;
    let placed = stage.placed(&network, 11)?;
    for address in placed.was.interface.iter().flat_map(|interface| &interface.addresses) {
        placed.inside(|| kernel::remove_address(name, *address))?;
        is_told(stage, &placed, &format!("no address {address}"))?;
    }
    let placed = stage.placed(&network, 12)?;
    placed.inside(|| kernel::remove_link(name))?;
    is_told(stage, &placed, "no interface")?;
    stage.detach(&placed)
}

fn wrong_inside(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    placed.inside(|| kernel::set_mtu(placed.interface(), 1280))?;
    is_told(stage, &placed, "another MTU")?;
    let placed = stage.placed(&network, 11)?;
    let other = mica_core::network::Mac::new([0x02, 9, 9, 9, 9, 9])?;
    placed.inside(|| kernel::set_mac(placed.interface(), other))?;
    is_told(stage, &placed, "another hardware address").map(drop)
}

fn names_everything(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let addresses: Vec<_> =
        placed.was.interface.iter().flat_map(|interface| interface.addresses.clone()).collect();
    for address in &addresses {
        placed.inside(|| kernel::remove_address(placed.interface(), *address))?;
    }
    placed.inside(|| kernel::set_mtu(placed.interface(), 1280))?;
    let reason = is_told(stage, &placed, "without addresses, and with another MTU")?;
    for lost in addresses.iter().map(|address| address.ip().to_string()).chain(["1280".to_owned()]) {
        ensure!(reason.contains(&lost), "the reason does not speak of {lost}: {reason}");
    }
    Ok(())
}

/// The names of the links that the driver made for a network.
fn made_for(network: &mica_core::network::Network) -> Verdict<Vec<String>> {
    let links = kernel::links().doing(|| "list the links")?;
    let ours = links
        .into_iter()
        .filter(|link| link.mark().is_some_and(|mark| mark.scope == Scope::Network(network.id)));
    Ok(ours.map(|link| link.name).collect())
}

fn missing_outside(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    for name in made_for(&network)? {
        kernel::set_up(&name, false).doing(|| "set a link down")?;
        is_told(stage, &placed, &format!("'{name}' is down"))?;
        kernel::remove_link(&name).doing(|| "remove a link")?;
        is_told(stage, &placed, &format!("there is no '{name}'"))?;
    }
    Ok(())
}

fn flushed_rules(stage: &Stage<'_>) -> Verdict {
    let before = kernel::rules::tables().doing(|| "list the tables")?;
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    if kernel::rules::tables().doing(|| "list the tables")? == before {
        return Ok(());
    }
    kernel::rules::flush().doing(|| "flush the rules")?;
    is_told(stage, &placed, "no rules").map(drop)
}

fn up_tells(stage: &Stage<'_>) -> Verdict {
    let tables = || kernel::rules::tables().doing(|| "list the tables");
    let before = tables()?;
    let network = stage.planned(1)?;
    let is_told = |what: &str| -> Verdict {
        let rebuilt = stage.driver().up(&network).doing(|| "up")?.rebuilt;
        ensure!(rebuilt, "{what}, up says that it rebuilt nothing");
        let again = stage.driver().up(&network).doing(|| "up again")?.rebuilt;
        ensure!(!again, "{what}, up says twice that it rebuilt something");
        Ok(())
    };
    let first = stage.driver().up(&network).doing(|| "up")?.rebuilt;
    let (links, rules) = (made_for(&network)?, tables()? != before);
    let made = rules || !links.is_empty();
    ensure!(first == made, "the first up made {links:?}; that it rebuilt something it calls {first}");
    if rules {
        kernel::rules::flush().doing(|| "flush the rules")?;
        is_told("after a flush of the rules")?;
    }
    for name in links {
        kernel::remove_link(&name).doing(|| "remove a link")?;
        is_told(&format!("after '{name}' was removed"))?;
    }
    Ok(())
}

fn update_mends(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    kernel::rules::flush().doing(|| "flush the rules")?;
    made_for(&network)?.iter().try_for_each(|name| kernel::remove_link(name).doing(|| "remove a link"))?;
    stage.driver().up(&network).doing(|| "up")?;
    for placed in [&one, &other] {
        let Placed { network, endpoint, was, namespace } = placed;
        let now = stage.driver().update(network, was, endpoint, namespace.as_fd()).doing(|| "update")?;
        ensure!(now == *was, "update answered {now:?}, attach {was:?}");
        stage.check(placed).doing(|| "check after an update")?;
    }
    reach_each_other(stage, &one, &other)
}

fn up_mends(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::without_rules()?;
    let network = stage.network(1)?;
    let whole = Snapshot::now()?;
    kernel::rules::flush().doing(|| "flush the rules")?;
    for name in made_for(&network)? {
        for address in kernel::addresses(Some(&name)).doing(|| "list addresses")? {
            // The kernel's own are not to be taken away.
            let _ = kernel::remove_address(&name, address);
        }
        kernel::set_up(&name, false).doing(|| "set a link down")?;
        stage.driver().up(&network).doing(|| format!("up when '{name}' is down and has no address"))?;
        Snapshot::now()?.is_same_as(&whole, "after up")?;
        kernel::remove_link(&name).doing(|| "remove a link")?;
    }
    stage.driver().up(&network).doing(|| "up when all is gone")?;
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    reach_each_other(stage, &one, &other)?;
    [&one, &other].into_iter().try_for_each(|placed| {
        stage.check(placed).doing(|| "check")?;
        stage.detach(placed)
    })?;
    stage.driver().down(&network).doing(|| "down")?;
    before.comes_back(Snapshot::without_rules, "after down")
}
