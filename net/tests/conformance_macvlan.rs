//! The contract of a network driver, kept on the host's own network.
#![allow(missing_docs)]

fn main() -> std::process::ExitCode {
    mica_conformance::network::harness::main(&mica_net::MACVLAN)
}
