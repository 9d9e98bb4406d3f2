use mica_core::network::{InterfaceName, NetworkId, Prefix};

const VETH: Prefix = Prefix::new(b"veth");

fn misuse(network: &NetworkId) -> InterfaceName {
    InterfaceName::of_endpoint(VETH, network)
}

fn main() {}
