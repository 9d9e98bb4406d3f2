//! Networks that are planned, raised and taken down wrongly.

use std::path::Path;
use std::process::Command;

use mica_conformance::network::kernel;
use mica_core::network::{HostChange, Network, NetworkDriver, Raised};
use mica_core::{Error, OptionMap, Result};

use crate::fault::Fault;
use crate::plain::Plain;

#[derive(Debug, Default)]
struct PlansByDoing;

impl Fault for PlansByDoing {
    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        let network = plain.plan(wanted)?;
        plain.up(&network)?;
        Ok(network)
    }
}

/// Room for a header, taken off once more with each plan.
#[derive(Debug, Default)]
struct ShrinksTheMtu;

impl Fault for ShrinksTheMtu {
    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        let network = plain.plan(wanted)?;
        Ok(Network { mtu: network.mtu.map(|mtu| mtu - 50), ..network })
    }
}

#[derive(Debug, Default)]
struct CompletesNothing;

impl Fault for CompletesNothing {
    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        let mtu = wanted.mtu;
        Ok(Network { mtu, ..plain.plan(wanted)? })
    }
}

#[derive(Debug, Default)]
struct TakesAnyOption;

impl Fault for TakesAnyOption {
    fn understood(_: &OptionMap) -> OptionMap {
        OptionMap::new()
    }

    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        plain.plan(Network { options: OptionMap::new(), ..wanted })
    }
}

#[derive(Debug, Default)]
struct CallsItselfOtherwise;

impl Fault for CallsItselfOtherwise {
    const NAME: &'static str = "other";
}

#[derive(Debug, Default)]
struct OpensByDoing;

impl Fault for OpensByDoing {
    fn opened(&self, _: &Path) -> Result<()> {
        let found = kernel::links().unwrap().len();
        kernel::add_bridge(&format!("probe{found}")).unwrap();
        Ok(())
    }
}

#[derive(Debug, Default)]
struct BoastsEachTime;

impl Fault for BoastsEachTime {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        Ok(Raised { host: vec![boast()], ..plain.up(net)? })
    }

    fn restore(&self, _: &Plain) -> Result<Vec<HostChange>> {
        Ok(vec![boast()])
    }
}

fn boast() -> HostChange {
    let (was, now) = ("0".to_owned(), "1".to_owned());
    HostChange { setting: "net.ipv4.conf.all.forwarding".to_owned(), was, now }
}

/// Makes the bridge anew whenever it is asked to.
#[derive(Debug, Default)]
struct RaisesAnew;

impl Fault for RaisesAnew {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        plain.down(net)?;
        plain.up(net)
    }
}

#[derive(Debug, Default)]
struct MovesIn;

impl Fault for MovesIn {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        match plain.up(net) {
            Err(Error::AlreadyExists { .. }) => {
                kernel::remove_link(Plain::bridge(net.id).as_str()).unwrap();
                plain.up(net)
            }
            done => done,
        }
    }
}

/// Looks for the bridge and for nothing about it.
#[derive(Debug, Default)]
struct MendsNothing;

impl Fault for MendsNothing {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        match kernel::link(Plain::bridge(net.id).as_str()).unwrap() {
            Some(link) if link.mark().is_some_and(|mark| mark == plain.mark(mark.scope)) => {
                Ok(Raised::default())
            }
            _ => plain.up(net),
        }
    }
}

#[derive(Debug, Default)]
struct StaysUp;

impl Fault for StaysUp {
    fn down(&self, _: &Plain, _: &Network) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct GoesDownOnce;

impl Fault for GoesDownOnce {
    fn down(&self, plain: &Plain, net: &Network) -> Result<()> {
        if kernel::link(Plain::bridge(net.id).as_str()).unwrap().is_none() {
            return Err(Error::NotFound { what: format!("network '{}'", net.name) });
        }
        plain.down(net)
    }
}

/// Makes the bridge where there is none, and says nothing of it.
#[derive(Debug, Default)]
struct TellsNothing;

impl Fault for TellsNothing {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        Ok(Raised { rebuilt: false, ..plain.up(net)? })
    }
}

#[derive(Debug, Default)]
struct AlwaysRebuilds;

impl Fault for AlwaysRebuilds {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        Ok(Raised { rebuilt: true, ..plain.up(net)? })
    }
}

/// Turns the host into a router, and says nothing of it.
#[derive(Debug, Default)]
struct MakesARouter;

impl Fault for MakesARouter {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
        }
        plain.up(net)
    }
}

/// Has a table of rules, which it forgets.
#[derive(Debug, Default)]
struct ForgetsItsRules;

impl Fault for ForgetsItsRules {
    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        assert!(Command::new("nft").args(["add", "table", "inet", "broken"]).status().unwrap().success());
        plain.up(net)
    }
}

caught! {
    a_plan_that_makes_the_network: PlansByDoing => ["plan-touches-nothing"];
    a_plan_that_is_another_each_time: ShrinksTheMtu => ["plan-of-a-plan", "plan-keeps-what-was-wished"];
    a_plan_with_holes: CompletesNothing => ["plan-completes"];
    options_that_nobody_knows: TakesAnyOption => ["plan-unknown-option", "open-unknown-setting"];
    another_name_than_registered: CallsItselfOtherwise => ["capabilities-stay"];
    an_open_that_probes_by_making: OpensByDoing => ["open-touches-nothing"];
    changes_that_were_none: BoastsEachTime => ["up-is-idempotent", "whole-life-leaves-nothing"];
    an_up_that_makes_anew: RaisesAnew => ["up-keeps-endpoints"];
    an_up_that_takes_what_is_in_the_way: MovesIn => ["up-respects-others"];
    an_up_that_looks_for_a_name: MendsNothing => ["up-mends"];
    an_up_that_tells_nothing: TellsNothing => ["up-tells-what-it-rebuilt"];
    an_up_that_always_rebuilds: AlwaysRebuilds => ["up-is-idempotent", "up-tells-what-it-rebuilt"];
    a_down_that_does_nothing: StaysUp => ["down-takes-away", "down-of-an-unrecorded-network", "whole-life-leaves-nothing"];
    a_down_that_wants_something_there: GoesDownOnce => ["down-is-idempotent"];
    a_host_that_forwards_for_all: MakesARouter => ["host-stays-no-router", "settings-are-told-and-restored", "advertisements-of-the-host"];
    rules_that_are_forgotten: ForgetsItsRules => ["check-finds-flushed-rules"];
}
