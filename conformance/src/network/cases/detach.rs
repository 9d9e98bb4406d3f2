//! Endpoints that go, in whatever state they are.

use std::os::fd::AsFd;

use mica_core::network::{Endpoint, Families, Network, Scope};

use super::attach::{reach_each_other, routes_are_right};
use super::lifecycle::way;
use super::list;
use crate::network::case::nothing;
use crate::network::kernel;
use crate::network::snapshot::{Snapshot, eventually};
use crate::network::{Placed, Stage};
use crate::outcome::{Doing, Verdict, ensure};

list! {
    "detach-takes-away" takes_away =
        "detach takes the endpoint away, and leaves a live namespace as it was before attach";
    "detach-twice" twice =
        "detach is idempotent: what is gone already is no error";
    "detach-namespace-gone" namespace_gone =
        "detach works without a namespace, and removes all that is outside of it";
    "detach-namespace-unreachable" namespace_unreachable =
        "detach removes all that is outside of a namespace that cannot be reached but lives",
        Addresses else nothing;
    "detach-without-attachment" without_attachment =
        "what attach could have made is found without the attachment";
    "detach-unrecorded" unrecorded =
        "an endpoint of which only the ids are left is found by name and by mark";
    "detach-never-attached" never_attached =
        "an endpoint that was never attached is no error";
    "detach-network-gone" network_gone =
        "detach works when the network's own objects are gone";
    "detach-leaves-others" leaves_others =
        "endpoints of other networks, and what a container's own root put there, are left alone",
        Addresses else nothing;
    "detach-cuts-off" cuts_off =
        "when detach returns, nothing leads to the endpoint's addresses",
        Addresses else nothing;
    "address-reuse" address_reuse =
        "an address that was given back works at once for another endpoint",
        GivenAddresses else nothing;
    "attach-again" attach_again =
        "the same endpoint is attached again after a detach";
}

/// Fails while `list` has anything of this endpoint.
fn is_gone(stage: &Stage<'_>, endpoint: &Endpoint) -> Verdict {
    eventually(|| {
        let mut listed = stage.driver().list().doing(|| "list")?;
        listed.retain(|owned| matches!(owned.scope, Scope::Endpoint(_, id) if id == endpoint.id));
        ensure!(listed.is_empty(), "of the endpoint there is still {listed:?}");
        Ok(())
    })
}

/// Attaches an endpoint, detaches it in some way, and fails unless the host is then as it was.
fn leaves_the_host(stage: &Stage<'_>, network: &Network, detach: impl FnOnce(Placed) -> Verdict) -> Verdict {
    let before = Snapshot::without_rules()?;
    let placed = stage.placed(network, 10)?;
    let endpoint = placed.endpoint.clone();
    detach(placed)?;
    is_gone(stage, &endpoint)?;
    before.comes_back(Snapshot::without_rules, "on the host, after detach")
}

fn takes_away(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let container = stage.container()?;
    let inside = container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")??;
    let host = Snapshot::without_rules()?;
    let placed = stage.place_in(&network, stage.endpoint(&network, 10)?, container.clone())?;
    stage.detach(&placed)?;
    let look = || container.inside(|| Ok(Snapshot::now())).doing(|| "look inside")?;
    eventually(|| look()?.is_same_as(&inside, "inside, after detach"))?;
    is_gone(stage, &placed.endpoint)?;
    host.comes_back(Snapshot::without_rules, "on the host, after detach")
}

fn twice(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    leaves_the_host(stage, &network, |placed| {
        stage.detach(&placed)?;
        stage.detach(&placed).map_err(|stop| stop.within("the second time"))?;
        let driver = stage.reopened()?;
        driver.detach(&network, &placed.endpoint, None, None).doing(|| "detach by another process")
    })
}

fn namespace_gone(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    leaves_the_host(stage, &network, |Placed { endpoint, was, namespace, .. }| {
        drop(namespace);
        stage.driver().detach(&network, &endpoint, Some(&was), None).doing(|| "detach")
    })
}

fn namespace_unreachable(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let neighbour = stage.placed(&network, 20)?;
    let before = Snapshot::without_rules()?;
    let placed = stage.placed(&network, 10)?;
    let id = placed.endpoint.id;
    let listed = stage.driver().list().doing(|| "list")?;
    let leans_on_the_host =
        listed.iter().any(|owned| matches!(owned.scope, Scope::Endpoint(_, of) if of == id));
    stage.driver().detach(&network, &placed.endpoint, Some(&placed.was), None).doing(|| "detach")?;
    is_gone(stage, &placed.endpoint)?;
    before.comes_back(Snapshot::without_rules, "on the host, after detach")?;
    if !leans_on_the_host {
        // Nothing of it was outside, so what is inside goes on by itself.
        return Ok(());
    }
    stage.families().into_iter().try_for_each(|family| {
        way(&neighbour, &placed, family)?.is_closed("after a detach without the namespace")
    })
}

fn without_attachment(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    leaves_the_host(stage, &network, |placed| {
        let namespace = Some(placed.namespace.as_fd());
        stage.driver().detach(&network, &placed.endpoint, None, namespace).doing(|| "detach")
    })?;
    leaves_the_host(stage, &network, |Placed { endpoint, namespace, .. }| {
        drop(namespace);
        stage.reopened()?.detach(&network, &endpoint, None, None).doing(|| "detach by another process")
    })
}

fn unrecorded(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    leaves_the_host(stage, &network, |placed| {
        let (lost, ids) = (Network::unrecorded(network.id), Endpoint::unrecorded(placed.endpoint.id));
        drop(placed);
        stage.reopened()?.detach(&lost, &ids, None, None).doing(|| "detach by the ids")
    })
}

fn never_attached(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let endpoint = stage.endpoint(&network, 10)?;
    let container = stage.container()?;
    let before = Snapshot::now()?;
    stage.driver().detach(&network, &endpoint, None, None).doing(|| "detach")?;
    stage.driver().detach(&network, &endpoint, None, Some(container.as_fd())).doing(|| "detach")?;
    let down = stage.planned(2)?;
    let endpoint = stage.endpoint(&down, 10)?;
    stage.driver().detach(&down, &endpoint, None, None).doing(|| "detach from a network that is not up")?;
    Snapshot::now()?.is_same_as(&before, "after detach of what was not attached")
}

fn network_gone(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let made = kernel::links().doing(|| "list the links")?;
    let made =
        made.iter().filter(|link| link.mark().is_some_and(|mark| mark.scope == Scope::Network(network.id)));
    made.into_iter().try_for_each(|link| kernel::remove_link(&link.name).doing(|| "remove a link"))?;
    kernel::rules::flush().doing(|| "flush the rules")?;
    stage.detach(&placed)?;
    is_gone(stage, &placed.endpoint)?;
    stage.driver().down(&network).doing(|| "down")
}

fn leaves_others(stage: &Stage<'_>) -> Verdict {
    let (first, second) = (stage.network(1)?, stage.network(2)?);
    let neighbour = stage.placed(&first, 10)?;
    let one = stage.placed(&first, 20)?;
    one.inside(|| kernel::add_bridge("mine0"))?;
    let before = one.inside(|| Ok(Snapshot::now()))??;
    let mut endpoint = stage.endpoint(&second, 20)?;
    endpoint.interface = "eth1".parse()?;
    endpoint.gateway = Families::NONE;
    let two = stage.place_in(&second, endpoint, one.namespace.clone())?;
    stage.detach(&two)?;
    let look = || one.inside(|| Ok(Snapshot::now()))?;
    eventually(|| look()?.is_same_as(&before, "inside, after detach from the second network"))?;
    routes_are_right(stage, &one)?;
    reach_each_other(stage, &one, &neighbour)
}

fn cuts_off(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (neighbour, placed) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    reach_each_other(stage, &neighbour, &placed)?;
    stage.detach(&placed)?;
    stage
        .families()
        .into_iter()
        .try_for_each(|family| way(&neighbour, &placed, family)?.is_closed("after detach"))
}

fn address_reuse(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let neighbour = stage.placed(&network, 10)?;
    let mut last = stage.placed(&network, 11)?;
    for _ in 0..3 {
        // The neighbour now remembers the hardware address of whom it spoke with.
        reach_each_other(stage, &neighbour, &last)?;
        let Placed { endpoint, was, namespace, .. } = last;
        stage.driver().detach(&network, &endpoint, Some(&was), Some(namespace.as_fd())).doing(|| "detach")?;
        drop(namespace);
        last = stage.placed(&network, 11)?;
    }
    reach_each_other(stage, &neighbour, &last)
}

fn attach_again(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let mut placed = stage.placed(&network, 10)?;
    for _ in 0..3 {
        stage.detach(&placed)?;
        let Placed { endpoint, namespace, .. } = placed;
        placed = stage.place_in(&network, endpoint, namespace)?;
        stage.check(&placed).doing(|| "check")?;
        routes_are_right(stage, &placed)?;
    }
    Ok(())
}
