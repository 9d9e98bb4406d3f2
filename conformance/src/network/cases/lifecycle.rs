//! Networks that come and go.

use std::os::fd::AsFd;

use mica_core::network::{Families, InterfaceName, Network, Raised};

use super::list;
use crate::network::case::nothing;
use crate::network::kernel;
use crate::network::namespace::identity;
use crate::network::snapshot::{Snapshot, eventually};
use crate::network::traffic::Way;
use crate::network::{Placed, Stage};
use crate::outcome::{Doing, Verdict, ensure, refused};

list! {
    "capabilities-stay" capabilities_stay =
        "capabilities are probed once, when the driver is opened; the name is the one under which it is registered";
    "open-touches-nothing" open_touches_nothing =
        "opening touches nothing in the kernel";
    "open-unknown-setting" unknown_setting =
        "a setting that the driver does not take is refused by name";
    "up-is-idempotent" up_is_idempotent =
        "where all stands, up changes nothing";
    "up-keeps-endpoints" up_keeps_endpoints =
        "endpoints that are attached keep working",
        Addresses else nothing;
    "up-respects-others" up_respects_others =
        "an object in the way that does not bear the network's mark answers AlreadyExists and stays",
        Addresses else nothing;
    "down-takes-away" down_takes_away =
        "down takes away what up made";
    "down-is-idempotent" down_is_idempotent =
        "a network of which nothing is there is no error";
    "down-of-an-unrecorded-network" down_unrecorded =
        "down finds what it takes away by the network's id alone";
    "whole-life-leaves-nothing" leaves_nothing =
        "when all is detached, down and restored, the host is as it was; restore is idempotent";
    "calls-stay-in-their-namespace" stay_in_namespace =
        "a thread that returns from a call is in the namespace in which it entered it, after an error too";
    "calls-leak-no-descriptor" leak_no_descriptor =
        "a driver keeps no descriptor of a namespace";
}

fn capabilities_stay(stage: &Stage<'_>) -> Verdict {
    let (name, registered) = (stage.driver().name(), stage.subject().entry.name);
    ensure!(name == registered, "the driver is called '{name}', registered as '{registered}'");
    let before = stage.can().clone();
    let placed = lived(stage)?;
    stage.detach(&placed)?;
    ensure!(*stage.can() == before, "{before:?} became {:?}", stage.can());
    let again = stage.reopened()?;
    ensure!(*again.capabilities() == before, "opened again: {:?}, before: {before:?}", again.capabilities());
    Ok(())
}

fn lived(stage: &Stage<'_>) -> Verdict<Placed> {
    let network = stage.network(1)?;
    stage.placed(&network, 10)
}

fn open_touches_nothing(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::now()?;
    drop(stage.reopened()?);
    drop(stage.for_another_owner()?);
    Snapshot::now()?.is_same_as(&before, "after it was opened")
}

fn unknown_setting(stage: &Stage<'_>) -> Verdict {
    let mut settings = stage.subject().settings.clone();
    settings.insert("no-such-setting".to_owned(), "1".to_owned());
    let owner = mica_core::network::OwnerId::from_bytes(crate::network::stage::OWNER);
    let opened = (stage.subject().entry.open)(owner, &stage.directory(), &settings);
    refused!(opened, Options, "open with an unknown setting");
    Ok(())
}

fn up_is_idempotent(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let before = Snapshot::now()?;
    let again = stage.driver().up(&network).doing(|| "up again")?;
    ensure!(again == Raised::default(), "the second up says that it did something: {again:?}");
    let again = stage.reopened()?;
    again.up(&network).doing(|| "up by another process")?;
    Snapshot::now()?.is_same_as(&before, "after three calls of up")
}

fn up_keeps_endpoints(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (one, other) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    let before = Snapshot::now()?;
    stage.reopened()?.up(&network).doing(|| "up again")?;
    Snapshot::now()?.is_same_as(&before, "after up with endpoints")?;
    super::attach::reach_each_other(stage, &one, &other)
}

fn up_respects_others(stage: &Stage<'_>) -> Verdict {
    let network = stage.planned(1)?;
    let Some(name) = network.interface.as_ref().map(InterfaceName::as_str) else { return Ok(()) };
    if kernel::link(name).doing(|| "look for the interface")?.is_some() {
        // The network stands on an interface that is there before it.
        return Ok(());
    }
    for alias in ["", "mica:0123456789abcdef:00000000000000000000000000000000"] {
        kernel::add_bridge(name).doing(|| "make a bridge")?;
        kernel::set_alias(name, alias).doing(|| "set an alias")?;
        let before = Snapshot::without_rules()?;
        let what = format!("up with a bridge '{name}' of somebody else's ('{alias}')");
        refused!(stage.driver().up(&network), AlreadyExists, "{what}");
        Snapshot::without_rules()?.is_same_as(&before, &what)?;
        stage.driver().down(&network).doing(|| format!("down after {what}"))?;
        Snapshot::without_rules()?.is_same_as(&before, "down")?;
        kernel::remove_link(name).doing(|| "remove the bridge")?;
    }
    stage.driver().up(&network).doing(|| "up when nothing is in the way").map(drop)
}

fn down_takes_away(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::without_rules()?;
    let network = stage.network(1)?;
    stage.driver().down(&network).doing(|| "down")?;
    is_gone(stage, &network)?;
    before.comes_back(Snapshot::without_rules, "after up and down")?;
    stage.driver().up(&network).doing(|| "up once more")?;
    let placed = stage.placed(&network, 10)?;
    stage.detach(&placed)?;
    stage.driver().down(&network).doing(|| "down")?;
    before.comes_back(Snapshot::without_rules, "after a whole life")
}

/// Nothing in `list` is part of this network.
pub(super) fn is_gone(stage: &Stage<'_>, network: &Network) -> Verdict {
    use mica_core::network::Scope;
    eventually(|| {
        let mut listed = stage.driver().list().doing(|| "list")?;
        listed.retain(|owned| match owned.scope {
            Scope::Driver => false,
            Scope::Network(id) | Scope::Endpoint(id, _) => id == network.id,
        });
        ensure!(listed.is_empty(), "of network '{}' there is still {listed:?}", network.name);
        Ok(())
    })
}

fn down_is_idempotent(stage: &Stage<'_>) -> Verdict {
    let network = stage.planned(1)?;
    stage.driver().down(&network).doing(|| "down of a network that was never up")?;
    stage.driver().up(&network).doing(|| "up")?;
    stage.driver().down(&network).doing(|| "down")?;
    stage.driver().down(&network).doing(|| "down again")?;
    stage.driver().down(&Network::unrecorded(network.id)).doing(|| "down by the id, of what is gone")
}

fn down_unrecorded(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::without_rules()?;
    let (network, other) = (stage.network(1)?, stage.planned(2)?);
    let kept = Snapshot::without_rules()?;
    stage.driver().up(&other).doing(|| "up")?;
    stage.reopened()?.down(&Network::unrecorded(other.id)).doing(|| "down by the id")?;
    is_gone(stage, &other)?;
    kept.comes_back(Snapshot::without_rules, "after the down of another network")?;
    stage.reopened()?.down(&Network::unrecorded(network.id)).doing(|| "down by the id")?;
    before.comes_back(Snapshot::without_rules, "after a down by the id")
}

fn leaves_nothing(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::now()?;
    let networks = [stage.network(1)?, stage.network(2)?];
    for network in &networks {
        let placed = stage.placed(network, 10)?;
        let mut taken = stage.endpoint(network, 11)?;
        taken.addresses.push([192, 0, 2, 1].into());
        let _ = stage.driver().attach(network, &taken, stage.container()?.as_fd());
        stage.driver().status().doing(|| "status")?;
        stage.check(&placed).doing(|| "check")?;
        stage.detach(&placed)?;
    }
    networks.iter().try_for_each(|network| stage.driver().down(network).doing(|| "down"))?;
    stage.driver().restore().doing(|| "restore")?;
    before.comes_back(Snapshot::now, "after a whole life")?;
    let changed = stage.reopened()?.restore().doing(|| "restore again")?;
    ensure!(changed.is_empty(), "the second restore says that it changed {changed:?}");
    Snapshot::now()?.is_same_as(&before, "after two calls of restore")
}

fn stay_in_namespace(stage: &Stage<'_>) -> Verdict {
    let home = identity().doing(|| "look at the namespace")?;
    let here = |call: &str| -> Verdict {
        let now = identity().doing(|| "look at the namespace")?;
        ensure!(now == home, "after {call} the thread is in another namespace");
        Ok(())
    };
    let driver = stage.driver();
    let network = stage.network(1)?;
    here("up")?;
    let placed = stage.placed(&network, 10)?;
    here("attach")?;
    let _ = driver.attach(&network, &placed.endpoint, placed.namespace.as_fd());
    here("a second attach")?;
    stage.check(&placed).doing(|| "check")?;
    here("check")?;
    let changed = mica_core::network::Endpoint { gateway: Families::NONE, ..placed.endpoint.clone() };
    let _ = driver.update(&network, &placed.was, &changed, placed.namespace.as_fd());
    here("update")?;
    let _ = stage.check(&placed);
    here("a check of what was changed")?;
    stage.detach(&placed)?;
    here("detach")?;
    driver.list().doing(|| "list")?;
    driver.down(&network).doing(|| "down")?;
    here("down")
}

fn leak_no_descriptor(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    stage.check(&placed).doing(|| "check")?;
    let container = placed.namespace.inside(identity).doing(|| "look at the namespace")?;
    stage.detach(&placed)?;
    drop(placed);
    let open = std::fs::read_dir("/proc/self/fd").doing(|| "list /proc/self/fd")?.flatten();
    let mut open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    ensure!(!open.any(|target| target == container), "the container's namespace is still open");
    Ok(())
}

/// A server in one container and a client in another.
pub(super) fn way<'p>(
    from: &'p Placed,
    to: &'p Placed,
    family: mica_core::network::Family,
) -> Verdict<Way<'p>> {
    Ok(Way::direct(&from.namespace, &to.namespace, to.address(family)?))
}
