//! Drivers that claim what they cannot do, or do what they do not claim.

use std::os::fd::BorrowedFd;

use mica_core::network::{
    Addressing, Attachment, Endpoint, Families, NetCapabilities, Network, NetworkDriver, Raised,
};
use mica_core::{Result, Support};

use crate::fault::Fault;
use crate::plain::Plain;

#[derive(Debug, Default)]
struct HidesAddresses;

impl Fault for HidesAddresses {
    fn claims(honest: &mut NetCapabilities) {
        honest.addressing = Addressing::None;
    }
}

#[derive(Debug, Default)]
struct HidesIpv6;

impl Fault for HidesIpv6 {
    fn claims(honest: &mut NetCapabilities) {
        honest.ipv6 = Support::no("a lie");
    }
}

#[derive(Debug, Default)]
struct HidesMac;

impl Fault for HidesMac {
    fn claims(honest: &mut NetCapabilities) {
        honest.mac = false;
    }
}

#[derive(Debug, Default)]
struct HidesLive;

impl Fault for HidesLive {
    fn claims(honest: &mut NetCapabilities) {
        honest.live = false;
    }
}

/// Answers that ports are published.
fn publish_nothing(plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
    let attached = plain.attach(net, &Endpoint { ports: Vec::new(), ..ep.clone() }, ns)?;
    Ok(Attachment { ports: ep.ports.clone(), ..attached })
}

#[derive(Debug, Default)]
struct ClaimsPorts;

impl Fault for ClaimsPorts {
    fn claims(honest: &mut NetCapabilities) {
        honest.ports = Support::Yes;
    }

    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        publish_nothing(plain, net, ep, ns)
    }
}

#[derive(Debug, Default)]
struct ClaimsPortsAndTellsNone;

impl Fault for ClaimsPortsAndTellsNone {
    fn claims(honest: &mut NetCapabilities) {
        honest.ports = Support::Yes;
    }

    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        Ok(Attachment { ports: Vec::new(), ..publish_nothing(plain, net, ep, ns)? })
    }
}

#[derive(Debug, Default)]
struct SwallowsPorts;

impl Fault for SwallowsPorts {
    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        publish_nothing(plain, net, ep, ns)
    }
}

/// A host that leads to its own loopback from everywhere.
fn open_loopback() {
    std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
}

#[derive(Debug, Default)]
struct ClaimsAShield;

impl Fault for ClaimsAShield {
    fn claims(honest: &mut NetCapabilities) {
        honest.shielded = true;
    }

    fn up(&self, plain: &Plain, net: &Network) -> Result<Raised> {
        open_loopback();
        plain.up(net)
    }
}

/// Lets a network be internal that is like any other.
fn not_internal(plain: &Plain, wanted: Network) -> Result<Network> {
    let internal = wanted.internal;
    let network = plain.plan(Network { internal: false, ..wanted })?;
    let routes = if internal { Families::NONE } else { network.routes };
    Ok(Network { internal, routes, ..network })
}

#[derive(Debug, Default)]
struct ClaimsInternal;

impl Fault for ClaimsInternal {
    fn claims(honest: &mut NetCapabilities) {
        honest.internal = Support::Yes;
    }

    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        not_internal(plain, wanted)
    }
}

#[derive(Debug, Default)]
struct SwallowsInternal;

impl Fault for SwallowsInternal {
    fn plan(&self, plain: &Plain, wanted: Network) -> Result<Network> {
        not_internal(plain, wanted)
    }
}

#[derive(Debug, Default)]
struct ClaimsALimit;

impl Fault for ClaimsALimit {
    fn claims(honest: &mut NetCapabilities) {
        honest.max_endpoints = Some(5);
    }
}

caught! {
    no_addresses_and_a_pool: HidesAddresses => ["plan-pools", "attach-without-addresses"];
    no_ipv6_and_a_pool_of_it: HidesIpv6 => ["plan-ipv6"];
    no_hardware_addresses_and_a_wish: HidesMac => ["attach-mac"];
    no_update_that_works: HidesLive => ["update-gateway"];
    ports_that_lead_nowhere: ClaimsPorts => ["ports-from-outside", "ports-from-the-host", "ports-from-containers", "ports-at-one-address", "ports-at-localhost", "ports-range", "ports-without-the-gateway", "ports-go-with-detach", "update-ports", "up-mends-ports"];
    ports_that_are_not_told: ClaimsPortsAndTellsNone => ["ports-are-told"];
    ports_that_are_swallowed: SwallowsPorts => ["ports-from-outside"];
    a_shield_that_is_none: ClaimsAShield => ["reaches-the-world", "shield-between-networks", "shield-from-outside", "shield-lets-answers-through", "shield-hardware-address", "shield-network-address", "shield-router-advertisement", "shield-loopback-of-the-host"];
    an_internal_network_like_any_other: ClaimsInternal => ["internal-is-cut-off"];
    internal_swallowed: SwallowsInternal => ["plan-internal"];
    a_limit_that_is_none: ClaimsALimit => ["full"];
}
