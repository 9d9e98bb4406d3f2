//! The suite accepts a network driver that keeps the contract in the plainest way.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/plain_network.rs"]
mod plain;

use mica_core::NetworkEntry;

static DRIVER: NetworkEntry = NetworkEntry {
    name: "plain",
    about: "a bridge and no rules, for the tests of the suite",
    options: &[],
    settings: &[],
    open: |owner, dir, given| Ok(Box::new(plain::Plain::open("plain", owner, dir, given)?)),
};

fn main() -> std::process::ExitCode {
    mica_conformance::network::harness::main(&DRIVER)
}
