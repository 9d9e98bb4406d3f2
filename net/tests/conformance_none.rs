//! The contract of a network driver, kept by the one that makes nothing.
#![allow(missing_docs)]

fn main() -> std::process::ExitCode {
    mica_conformance::network::harness::main(&mica_net::NONE)
}
