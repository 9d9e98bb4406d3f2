//! Changes of what is attached.

use std::os::fd::AsFd;

use mica_core::network::{Endpoint, Families};

use super::attach::{reach_each_other, routes_are_right};
use super::list;
use crate::network::Stage;
use crate::network::case::nothing;
use crate::outcome::{Doing, Verdict, ensure, refused};

list! {
    "update-gateway" gateway =
        "an update takes the default routes away and brings them back; else it answers Unsupported",
        Live else refuses;
    "update-of-nothing" of_nothing =
        "an update that changes nothing answers what attach did",
        Live else nothing;
    "update-of-something-else" something_else =
        "an update of anything but ports and gateway answers Options, and the attachment stays",
        Live else nothing;
    "update-not-attached" not_attached =
        "an update of an endpoint that is not attached answers NotFound",
        Live else nothing;
}

fn gateway(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let neighbour = stage.placed(&network, 10)?;
    let mut placed = stage.placed(&network, 11)?;
    for gateway in [Families::NONE, network.routes, Families { v4: false, ..network.routes }, network.routes]
    {
        placed.endpoint.gateway = gateway;
        let (was, container) = (&placed.was, placed.namespace.as_fd());
        placed.was = stage.driver().update(&network, was, &placed.endpoint, container).doing(|| "update")?;
        routes_are_right(stage, &placed)?;
        stage.check(&placed).doing(|| "check after an update")?;
        reach_each_other(stage, &placed, &neighbour)?;
    }
    stage.detach(&placed)
}

fn refuses(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let container = placed.namespace.as_fd();
    let updated = stage.driver().update(&network, &placed.was, &placed.endpoint, container);
    refused!(updated, Unsupported, "update");
    stage.check(&placed).doing(|| "check")
}

fn of_nothing(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let container = placed.namespace.as_fd();
    let now = stage.driver().update(&network, &placed.was, &placed.endpoint, container).doing(|| "update")?;
    ensure!(now == placed.was, "attach answered {:?}, the update {now:?}", placed.was);
    stage.check(&placed).doing(|| "check after an update")
}

fn something_else(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    let mut renamed = placed.endpoint.clone();
    renamed.interface = "eth7".parse()?;
    let mut moved = placed.endpoint.clone();
    moved.addresses = stage.endpoint(&network, 99)?.addresses;
    for changed in [renamed, moved] {
        if changed == placed.endpoint {
            continue;
        }
        let container = placed.namespace.as_fd();
        let updated = stage.driver().update(&network, &placed.was, &changed, container);
        refused!(updated, Options, "update to {changed:?}");
        stage.check(&placed).doing(|| "check after an update that was refused")?;
    }
    Ok(())
}

fn not_attached(stage: &Stage<'_>) -> Verdict {
    let network = stage.network(1)?;
    let placed = stage.placed(&network, 10)?;
    stage.detach(&placed)?;
    let never = Endpoint { id: stage.endpoint_id(), ..placed.endpoint.clone() };
    for endpoint in [&placed.endpoint, &never] {
        let container = placed.namespace.as_fd();
        refused!(stage.driver().update(&network, &placed.was, endpoint, container), NotFound, "update");
    }
    Ok(())
}
