//! Deliberately broken drivers: each is caught, by the cases that are about its fault and by no other.
//!
//! What no case can tell: whether `sync` reached the disk. That takes a power cut; see the suite's README.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
#[path = "support/fault.rs"]
mod fault;
#[path = "support/plain.rs"]
mod plain;

#[path = "broken/calls.rs"]
mod calls;
#[path = "broken/changes.rs"]
mod changes;
#[path = "broken/commits.rs"]
mod commits;
#[path = "broken/copies.rs"]
mod copies;
#[path = "broken/crowds.rs"]
mod crowds;
#[path = "broken/full.rs"]
mod full;
#[path = "broken/lies.rs"]
mod lies;
#[path = "broken/mounts.rs"]
mod mounts;
#[path = "broken/trees.rs"]
mod trees;

use std::collections::BTreeSet;

/// Cases that no driver here fails, each with the reason.
const NEVER_SEEN_TO_FAIL: &[(&str, &str)] = &[];

#[test]
fn every_case_has_a_driver_that_it_catches() {
    let modules = [
        calls::CAUGHT,
        changes::CAUGHT,
        commits::CAUGHT,
        copies::CAUGHT,
        crowds::CAUGHT,
        full::CAUGHT,
        lies::CAUGHT,
        mounts::CAUGHT,
    ];
    let caught: BTreeSet<&str> = modules.into_iter().flatten().copied().collect();
    let excused: BTreeSet<&str> = NEVER_SEEN_TO_FAIL.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<&str> = mica_conformance::cases().map(|case| case.name).collect();
    let uncaught: Vec<_> =
        all.iter().filter(|name| !caught.contains(*name) && !excused.contains(*name)).collect();
    assert!(uncaught.is_empty(), "no driver here fails {uncaught:?}");
    let idle: Vec<_> = excused.iter().filter(|name| caught.contains(*name) || !all.contains(*name)).collect();
    assert!(idle.is_empty(), "excused for nothing: {idle:?}");
}
