//! Endpoints that are detached or checked wrongly.

use std::os::fd::BorrowedFd;

use mica_conformance::network::{Namespace, kernel};
use mica_core::network::{Attachment, Endpoint, Network, NetworkDriver};
use mica_core::{Error, Result};

use crate::fault::Fault;
use crate::plain::Plain;

/// Declares drivers whose `detach` is this function.
macro_rules! detaches {
    ($($(#[doc = $doc:literal])* $Fault:ident =
        |$plain:ident, $net:ident, $ep:ident, $was:ident, $ns:ident| $body:expr;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Default)]
        struct $Fault;

        impl Fault for $Fault {
            fn detach(
                &self,
                $plain: &Plain,
                $net: &Network,
                $ep: &Endpoint,
                $was: Option<&Attachment>,
                $ns: Option<BorrowedFd<'_>>,
            ) -> Result<()> {
                $body
            }
        }
    )+};
}

fn lost(what: &str) -> Result<()> {
    Err(Error::NotFound { what: what.to_owned() })
}

detaches! {
    StaysAttached = |_plain, _net, _ep, _was, _ns| Ok(());
    DetachesOnce = |plain, net, ep, was, ns| {
        if kernel::link(Plain::port(ep.id).as_str()).unwrap().is_none() {
            return lost("the endpoint");
        }
        plain.detach(net, ep, was, ns)
    };
    WantsTheNamespace = |plain, net, ep, was, ns| {
        if ns.is_none() {
            return lost("the namespace");
        }
        plain.detach(net, ep, was, ns)
    };
    WantsTheAttachment = |plain, net, ep, was, ns| {
        if was.is_none() {
            return lost("the attachment");
        }
        plain.detach(net, ep, was, ns)
    };
    WantsTheRecord = |plain, net, ep, was, ns| {
        if net.pools.is_empty() {
            return lost("the network's record");
        }
        plain.detach(net, ep, was, ns)
    };
    WantsTheBridge = |plain, net, ep, was, ns| {
        if kernel::link(Plain::bridge(net.id).as_str()).unwrap().is_none() {
            return lost("the bridge");
        }
        plain.detach(net, ep, was, ns)
    };
    /// Without a namespace it leaves the port to the kernel.
    LeavesThePort = |plain, net, ep, was, ns| {
        if ns.is_none() { Ok(()) } else { plain.detach(net, ep, was, ns) }
    };
    ClearsTheNamespace = |plain, net, ep, was, ns| {
        plain.detach(net, ep, was, ns)?;
        if let Some(ns) = ns {
            Namespace::of(ns).unwrap().inside(|| {
                let others = kernel::links()?.into_iter().filter(|link| link.name != "lo");
                others.into_iter().try_for_each(|link| kernel::remove_link(&link.name))
            }).unwrap();
        }
        Ok(())
    };
    /// Whose it is does not matter.
    DetachesByName = |plain, net, ep, was, ns| {
        let _ = kernel::remove_link(Plain::port(ep.id).as_str());
        plain.detach(net, ep, was, ns)
    };
}

/// Declares drivers whose `check` makes this of the right answer.
macro_rules! checks {
    ($($(#[doc = $doc:literal])* $Fault:ident = |$right:ident| $body:expr;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Default)]
        struct $Fault;

        impl Fault for $Fault {
            fn check(
                &self,
                plain: &Plain,
                net: &Network,
                ep: &Endpoint,
                was: &Attachment,
                ns: BorrowedFd<'_>,
            ) -> Result<()> {
                let $right = plain.check(net, ep, was, ns);
                $body
            }
        }
    )+};
}

/// The reason of a check without the parts that begin with this.
fn without(right: Result<()>, ignored: &str) -> Result<()> {
    let Err(Error::Corrupt { what, reason }) = right else { return right };
    let kept: Vec<&str> = reason.split("; ").filter(|part| !part.starts_with(ignored)).collect();
    if kept.is_empty() { Ok(()) } else { Err(Error::Corrupt { what, reason: kept.join("; ") }) }
}

checks! {
    FindsNothing = |_right| Ok(());
    IgnoresTheMtu = |right| without(right, "MTU");
    IgnoresTheRoutes = |right| without(right, "no default route");
    IgnoresTheBridge = |right| without(right, "the bridge is down");
    NamesTheFirst = |right| match right {
        Err(Error::Corrupt { what, reason }) => {
            let first = reason.split("; ").next().unwrap_or_default().to_owned();
            Err(Error::Corrupt { what, reason: first })
        }
        right => right,
    };
    ChecksByMaking = |right| {
        let _ = kernel::add_bridge("checked0");
        right
    };
}

caught! {
    a_detach_that_does_nothing: StaysAttached => ["detach-takes-away", "detach-cuts-off"];
    a_detach_that_wants_something_there: DetachesOnce => ["detach-twice", "detach-never-attached"];
    a_detach_that_wants_the_namespace: WantsTheNamespace => ["detach-namespace-gone"];
    a_detach_that_wants_the_attachment: WantsTheAttachment => ["detach-without-attachment"];
    a_detach_that_wants_the_record: WantsTheRecord => ["detach-unrecorded"];
    a_detach_that_wants_the_bridge: WantsTheBridge => ["detach-network-gone"];
    a_port_left_to_the_kernel: LeavesThePort => ["detach-namespace-unreachable"];
    a_namespace_cleared: ClearsTheNamespace => ["detach-leaves-others"];
    a_name_taken_for_a_mark: DetachesByName => ["others-marks-are-respected", "unmarked-links-are-respected"];
    a_check_that_finds_nothing: FindsNothing => ["check-names-everything"];
    a_check_without_the_mtu: IgnoresTheMtu => ["check-finds-what-is-wrong-inside"];
    a_check_without_the_routes: IgnoresTheRoutes => ["check-finds-what-is-missing-inside"];
    a_check_without_the_bridge: IgnoresTheBridge => ["check-finds-what-is-missing-outside"];
    a_check_that_names_one_thing: NamesTheFirst => ["check-names-everything"];
    a_check_that_makes_something: ChecksByMaking => ["check-touches-nothing"];
}
