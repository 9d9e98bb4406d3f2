use mica_core::network::Prefix;

const LONG: Prefix = Prefix::new(b"bridge");

fn main() {}
