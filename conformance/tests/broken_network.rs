//! Deliberately broken network drivers: each is caught by the cases that are about its fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
#[path = "support/network_fault.rs"]
mod fault;
#[path = "support/plain_network.rs"]
mod plain;

#[path = "network/attaches.rs"]
mod attaches;
#[path = "network/detaches.rs"]
mod detaches;
#[path = "network/lies.rs"]
mod lies;
#[path = "network/networks.rs"]
mod networks;
#[path = "network/others.rs"]
mod others;

use std::collections::BTreeSet;

#[test]
fn every_case_has_a_driver_that_it_catches() {
    let modules = [attaches::CAUGHT, detaches::CAUGHT, lies::CAUGHT, networks::CAUGHT, others::CAUGHT];
    let caught: BTreeSet<&str> = modules.into_iter().flatten().copied().collect();
    let all: BTreeSet<&str> = mica_conformance::network::cases().map(|case| case.name).collect();
    let uncaught: Vec<_> = all.difference(&caught).collect();
    assert!(uncaught.is_empty(), "no driver here fails {uncaught:?}");
}
