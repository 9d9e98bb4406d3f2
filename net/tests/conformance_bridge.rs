//! The contract of a network driver, kept by bridges under each firewall.
#![allow(missing_docs)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let with = |firewall| [("firewall", firewall)];
    mica_conformance::network::harness::main_each(
        &mica_net::BRIDGE,
        &[("nft", &with("nft")), ("iptables", &with("iptables")), ("none", &with("none"))],
    )
}
