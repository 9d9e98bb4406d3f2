//! The suite accepts a driver that keeps the contract in the plainest way.
#![allow(missing_docs)]

#[path = "support/plain.rs"]
mod plain;

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main(&plain::DRIVER)
}
