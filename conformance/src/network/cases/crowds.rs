//! Many at once, and too many.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use mica_core::network::{Families, InterfaceName};

use super::attach::{reach_each_other, routes_are_right};
use super::list;
use crate::network::case::nothing;
use crate::network::snapshot::Snapshot;
use crate::network::{Placed, Stage};
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};

list! {
    "parallel-attaches" parallel_attaches =
        "calls about different endpoints come from many threads at once";
    "parallel-processes" parallel_processes =
        "calls about different endpoints come from many processes at once, and so do up, list and check";
    "parallel-networks" parallel_networks =
        "different networks come and go at once";
    "full" full =
        "beyond the most endpoints of a network attach answers Full, leaves nothing, and takes one again when one has gone",
        MaxEndpoints else nothing;
}

const CROWD: u16 = 100;

/// Runs these at once, and fails with the first that does. Threads are in the namespace of the one that starts them.
fn at_once<T: Send>(count: u16, work: impl Fn(u16) -> Verdict<T> + Sync) -> Verdict<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        let ended = started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(Stop::failed("a thread panicked"))));
        // All of them are waited for, so that none is still at work when the case ends.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

fn parallel_attaches(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let before = Snapshot::without_rules()?;
    let crowd = at_once(CROWD, |number| stage.placed(&network, 10 + number))?;
    for placed in &crowd {
        stage.check(placed).doing(|| "check")?;
        routes_are_right(stage, placed)?;
    }
    if let [first, .., last] = &crowd[..] {
        reach_each_other(stage, first, last)?;
    }
    at_once(CROWD, |number| stage.detach(&crowd[usize::from(number)]))?;
    before.comes_back(Snapshot::without_rules, "after as many detaches")
}

fn parallel_processes(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::without_rules()?;
    let network = stage.planned(1)?;
    let crowd = at_once(16, |number| {
        let driver = stage.reopened()?;
        driver.up(&network).doing(|| "up")?;
        let endpoint = stage.endpoint(&network, 10 + number)?;
        let namespace = stage.container()?;
        let was = driver.attach(&network, &endpoint, namespace.as_fd()).doing(|| "attach")?;
        driver.list().doing(|| "list")?;
        driver.up(&network).doing(|| "up again")?;
        driver.check(&network, &endpoint, &was, namespace.as_fd()).doing(|| "check")?;
        Ok(Placed { network: network.clone(), endpoint, was, namespace })
    })?;
    if let [first, .., last] = &crowd[..] {
        reach_each_other(stage, first, last)?;
    }
    at_once(16, |number| {
        let Placed { endpoint, was, namespace, .. } = &crowd[usize::from(number)];
        let driver = stage.reopened()?;
        driver.detach(&network, endpoint, Some(was), Some(namespace.as_fd())).doing(|| "detach")
    })?;
    stage.driver().down(&network).doing(|| "down")?;
    before.comes_back(Snapshot::without_rules, "after all of them")
}

fn parallel_networks(stage: &Stage<'_>) -> Verdict {
    let before = Snapshot::without_rules()?;
    at_once(8, |number| {
        for _ in 0..3 {
            let network = stage.network(1 + u8::try_from(number).unwrap_or_default())?;
            let placed = stage.placed(&network, 10)?;
            stage.check(&placed).doing(|| "check")?;
            stage.detach(&placed)?;
            stage.driver().down(&network).doing(|| "down")?;
        }
        Ok(())
    })?;
    before.comes_back(Snapshot::without_rules, "after all of them")
}

fn full(stage: &Stage<'_>) -> Verdict {
    let most = stage.can().max_endpoints.unwrap_or_default();
    let most = u16::try_from(most).doing(|| "a limit that can be tried")?;
    let network = stage.network(1)?;
    // Some containers do for all: what is counted is the network's. In one alone each multicast packet would have a
    // thousand routes to be looked for, at each of its thousand interfaces.
    let containers = (0..32).map(|_| stage.container()).collect::<Verdict<Vec<_>>>()?;
    let container = |number: u16| &containers[usize::from(number) % containers.len()];
    let endpoint = |number: u16| -> Verdict<_> {
        let mut endpoint = stage.endpoint(&network, 10 + number)?;
        endpoint.interface = InterfaceName::inner(number);
        endpoint.gateway = Families::NONE;
        Ok(endpoint)
    };
    let mut last = None;
    for number in 0..most {
        let placed = stage.place_in(&network, endpoint(number)?, Arc::clone(container(number)));
        last = Some(placed.map_err(|stop| stop.within(format!("endpoint {} of {most}", number + 1)))?);
    }
    let before = Snapshot::without_rules()?;
    let too_many = endpoint(most)?;
    let attached = stage.driver().attach(&network, &too_many, container(most).as_fd());
    refused!(attached, Full, "endpoint {} of {most}", u32::from(most) + 1);
    before.comes_back(Snapshot::without_rules, "after the attach that failed")?;
    if let Some(placed) = last {
        stage.detach(&placed)?;
        let attached = stage.driver().attach(&network, &too_many, container(most).as_fd());
        ensure!(attached.is_ok(), "when one has gone, attach answers {attached:?}");
    }
    Ok(())
}
