//! The suite accepts a driver that keeps the contract in the plainest way.
#![allow(missing_docs)]

#[path = "support/plain.rs"]
mod plain;

use mica_core::DriverEntry;

static DRIVER: DriverEntry = DriverEntry {
    name: "plain",
    about: "a copy a layer, for the tests of the suite",
    options: &[],
    open: |root, given| Ok(Box::new(plain::Plain::open("plain", root, given)?)),
    helper: None,
};

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main(&DRIVER)
}
