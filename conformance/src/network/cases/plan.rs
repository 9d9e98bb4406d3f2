//! What a plan answers and refuses.

use mica_core::network::{Addressing, Families, Pool};

use super::list;
use crate::network::Stage;
use crate::network::case::nothing;
use crate::network::snapshot::Snapshot;
use crate::network::stage::subnet;
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};

list! {
    "plan-touches-nothing" touches_nothing =
        "plan looks at the host and touches nothing";
    "plan-of-a-plan" of_a_plan =
        "a plan of a plan changes nothing";
    "plan-completes" completes =
        "plan fills in the gateways, the interface, the MTU and the families that the network can be a gateway in",
        GivenAddresses else nothing;
    "plan-keeps-what-was-wished" keeps_wishes =
        "a gateway and an MTU that were wished for stay as they are",
        GivenAddresses else nothing;
    "plan-unknown-option" unknown_option =
        "an option that the driver does not know is refused by name";
    "plan-pools" pools =
        "a driver without addresses answers Unsupported for a pool",
        Addresses else refuses_pools;
    "plan-ipv6" ipv6 =
        "a pool of IPv6 is planned where ipv6 is claimed; else it answers Unsupported",
        Ipv6 else refuses_ipv6;
    "plan-internal" internal =
        "an internal network is planned, and is never a gateway, where internal is claimed; else it answers Unsupported",
        Internal else refuses_internal;
}

fn touches_nothing(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::now()?;
    stage.planned(1)?;
    let mut bad = stage.wanted(2)?;
    bad.options.insert("no-such-option".to_owned(), "1".to_owned());
    let _ = stage.driver().plan(bad);
    Snapshot::now()?.is_same_as(&before, "after a plan")
}

fn of_a_plan(stage: &Stage<'_>) -> Verdict {
    let once = stage.planned(1)?;
    let twice = stage.driver().plan(once.clone()).doing(|| "plan a plan")?;
    ensure!(once == twice, "the first plan is {once:?}, the second {twice:?}");
    stage.driver().up(&once).doing(|| "up")?;
    let later = stage.driver().plan(once.clone()).doing(|| "plan a network that is up")?;
    ensure!(once == later, "the plan is {once:?}, that of the network when it is up {later:?}");
    Ok(())
}

fn completes(stage: &Stage<'_>) -> Verdict {
    let wanted = stage.wanted(1)?;
    let network = stage.driver().plan(wanted.clone()).doing(|| "plan")?;
    ensure!(
        network.id == wanted.id && network.name == wanted.name,
        "the network is another one: {network:?}"
    );
    ensure!(network.interface.is_some(), "no interface was given");
    ensure!(network.mtu.is_some_and(|mtu| (576..=65535).contains(&mtu)), "the MTU is {:?}", network.mtu);
    for (pool, wish) in network.pools.iter().zip(&wanted.pools) {
        ensure!(pool.subnet == wish.subnet, "subnet {} became {}", wish.subnet, pool.subnet);
        if network.routes.has(pool.subnet.family()) {
            let inside = pool.gateway.is_some_and(|gateway| pool.subnet.contains(gateway));
            ensure!(inside, "{} has the gateway {:?}", pool.subnet, pool.gateway);
        }
    }
    for family in stage.families() {
        ensure!(network.routes.has(family), "the network cannot be the gateway in {family}");
    }
    Ok(())
}

fn keeps_wishes(stage: &Stage<'_>) -> Verdict {
    let mut wanted = stage.wanted(1)?;
    wanted.mtu = Some(1300);
    for pool in &mut wanted.pools {
        pool.gateway = Some(crate::network::stage::nth(pool.subnet, 77));
    }
    let network = stage.driver().plan(wanted.clone()).doing(|| "plan")?;
    ensure!(network.mtu == wanted.mtu, "MTU 1300 became {:?}", network.mtu);
    ensure!(network.pools == wanted.pools, "{:?} became {:?}", wanted.pools, network.pools);
    Ok(())
}

fn unknown_option(stage: &Stage<'_>) -> Verdict {
    let mut wanted = stage.wanted(1)?;
    wanted.options.insert("no-such-option".to_owned(), "1".to_owned());
    match stage.driver().plan(wanted) {
        Err(mica_core::Error::Options(text)) => {
            ensure!(text.contains("no-such-option"), "the refusal does not name the option: {text}");
            Ok(())
        }
        other => Err(Stop::failed(format!("plan answered {other:?}, expected Options"))),
    }
}

fn pools(stage: &Stage<'_>) -> Verdict {
    stage.planned(1).map(drop)
}

fn refuses_pools(stage: &Stage<'_>) -> Verdict {
    ensure!(stage.can().addressing == Addressing::None, "the gate is wrong");
    refused!(stage.driver().plan(with_pool(stage, "10.101.0.0/20")?), Unsupported, "plan with a pool");
    Ok(())
}

fn ipv6(stage: &Stage<'_>) -> Verdict {
    let network = stage.planned(1)?;
    if stage.can().addressing == Addressing::Engine {
        ensure!(network.pools.iter().any(|pool| pool.subnet.first().is_ipv6()), "no pool of IPv6 is left");
    }
    Ok(())
}

fn refuses_ipv6(stage: &Stage<'_>) -> Verdict {
    refused!(
        stage.driver().plan(with_pool(stage, "fd00:101::/64")?),
        Unsupported,
        "plan with a pool of IPv6"
    );
    Ok(())
}

fn with_pool(stage: &Stage<'_>, text: &str) -> Verdict<mica_core::network::Network> {
    let mut wanted = stage.wanted(1)?;
    wanted.pools.push(Pool { subnet: subnet(text)?, gateway: None, range: None, reserved: Vec::new() });
    Ok(wanted)
}

fn internal(stage: &Stage<'_>) -> Verdict {
    let mut wanted = stage.wanted(1)?;
    wanted.internal = true;
    let network = stage.driver().plan(wanted).doing(|| "plan")?;
    ensure!(network.internal, "the network is internal no more");
    ensure!(network.routes == Families::NONE, "an internal network can be the gateway: {:?}", network.routes);
    Ok(())
}

fn refuses_internal(stage: &Stage<'_>) -> Verdict {
    let mut wanted = stage.wanted(1)?;
    wanted.internal = true;
    refused!(stage.driver().plan(wanted), Unsupported, "plan of an internal network");
    Ok(())
}
