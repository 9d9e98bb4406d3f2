//! Several engines on one host, and what each may touch.

use std::os::fd::AsFd;

use mica_core::network::{Endpoint, Network, OwnerId, Scope};

use super::attach::reach_each_other;
use super::list;
use crate::network::Stage;
use crate::network::case::nothing;
use crate::network::kernel;
use crate::network::stage::{OTHER_OWNER, OWNER};
use crate::outcome::{Doing, Verdict, ensure};

list! {
    "list-names-what-bears-the-mark" names_what_bears_the_mark =
        "list names everything of ours in the host's kernel, each link with its scope";
    "list-after-a-crash" after_a_crash =
        "what a process left that died is listed for another one";
    "list-is-the-owners" is_the_owners =
        "list names nothing of another engine's";
    "others-marks-are-respected" others_marks =
        "detach, down and restore delete nothing that bears another engine's mark",
        Addresses else nothing;
    "unmarked-links-are-respected" unmarked_links =
        "nothing is deleted by its name alone",
        Addresses else nothing;
    "two-engines-share-a-host" two_engines =
        "two engines with networks of their own do not disturb each other",
        GivenAddresses else nothing;
}

/// What `list` says, and which links bear the mark of the first engine.
fn compare(stage: &Stage<'_>, driver: &dyn mica_core::NetworkDriver) -> Verdict {
    let listed = driver.list().doing(|| "list")?;
    for link in kernel::links().doing(|| "list the links")? {
        let Some(mark) = link.mark().filter(|mark| mark.owner == OwnerId::from_bytes(OWNER)) else {
            continue;
        };
        let told = listed.iter().any(|owned| owned.scope == mark.scope && owned.object.contains(&link.name));
        ensure!(told, "link '{}' bears the mark {mark}, and list has {listed:?}", link.name);
    }
    ensure!(stage.can() == driver.capabilities(), "the capabilities changed");
    Ok(())
}

fn names_what_bears_the_mark(stage: &Stage<'_>) -> Verdict {
    ensure!(
        stage.driver().list().doing(|| "list")?.is_empty(),
        "there is something before anything was made"
    );
    let network = stage.network(1)?;
    compare(stage, stage.driver())?;
    let placed = stage.placed(&network, 10)?;
    compare(stage, stage.driver())?;
    stage.detach(&placed)?;
    compare(stage, stage.driver())?;
    stage.driver().down(&network).doing(|| "down")?;
    super::lifecycle::is_gone(stage, &network)
}

fn after_a_crash(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let later = stage.reopened()?;
    compare(stage, &*later)?;
    drop(placed);
    for owned in later.list().doing(|| "list")? {
        if let Scope::Endpoint(network, endpoint) = owned.scope {
            let (network, endpoint) = (Network::unrecorded(network), Endpoint::unrecorded(endpoint));
            later.detach(&network, &endpoint, None, None).doing(|| format!("detach {owned:?}"))?;
        }
    }
    for owned in later.list().doing(|| "list")? {
        if let Scope::Network(network) = owned.scope {
            later.down(&Network::unrecorded(network)).doing(|| format!("take down {owned:?}"))?;
        }
    }
    super::lifecycle::is_gone(stage, &network)
}

fn is_the_owners(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let _placed = stage.placed(&network, 10)?;
    let other = stage.for_another_owner()?;
    let listed = other.list().doing(|| "list")?;
    ensure!(listed.is_empty(), "another engine's list has {listed:?}");
    Ok(())
}

fn others_marks(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let (one, two) = (stage.placed(&network, 10)?, stage.placed(&network, 11)?);
    let other = stage.for_another_owner()?;
    // Whether they succeed or refuse is told by nothing: these are ids of the other engine's, or copied records.
    let _ = other.detach(&network, &one.endpoint, None, None);
    let _ = other.detach(&network, &two.endpoint, Some(&two.was), Some(two.namespace.as_fd()));
    let _ = other.down(&network);
    let _ = other.restore();
    for placed in [&one, &two] {
        stage.check(placed).doing(|| "check after another engine was at work")?;
    }
    reach_each_other(stage, &one, &two)
}

fn unmarked_links(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let made = kernel::links().doing(|| "list the links")?;
    let made: Vec<_> = made.into_iter().filter(|link| link.mark().is_some()).collect();
    stage.detach(&placed)?;
    stage.driver().down(&network).doing(|| "down")?;
    super::lifecycle::is_gone(stage, &network)?;
    let foreign = format!("mica:{}", OwnerId::from_bytes(OTHER_OWNER));
    for alias in [foreign.as_str(), "the operator's own"] {
        for link in &made {
            kernel::add_bridge(&link.name).doing(|| "make a link")?;
            kernel::set_alias(&link.name, alias).doing(|| "set an alias")?;
        }
        let _ = stage.driver().detach(&network, &placed.endpoint, None, None);
        let _ = stage.driver().down(&network);
        for link in &made {
            let left = kernel::link(&link.name).doing(|| "look for a link")?;
            ensure!(left.is_some(), "'{}' of somebody else's ('{alias}') was deleted", link.name);
            kernel::remove_link(&link.name).doing(|| "remove a link")?;
        }
    }
    Ok(())
}

fn two_engines(stage: &Stage<'_>) -> Verdict {
    let other = stage.for_another_owner()?;
    let ours = stage.network(1)?;
    let theirs = other.plan(stage.wanted(2)?).doing(|| "plan by another engine")?;
    other.up(&theirs).doing(|| "up by another engine")?;
    let (one, two) = (stage.placed(&ours, 10)?, stage.placed(&ours, 11)?);
    let container = stage.container()?;
    let endpoint = stage.endpoint(&theirs, 10)?;
    let was = other.attach(&theirs, &endpoint, container.as_fd()).doing(|| "attach by another engine")?;
    reach_each_other(stage, &one, &two)?;
    other.detach(&theirs, &endpoint, Some(&was), Some(container.as_fd())).doing(|| "detach")?;
    other.down(&theirs).doing(|| "down by another engine")?;
    let _ = other.restore();
    stage.check(&one).doing(|| "check after another engine left")?;
    reach_each_other(stage, &one, &two)
}
