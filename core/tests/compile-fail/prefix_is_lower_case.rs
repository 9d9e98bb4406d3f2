use mica_core::network::Prefix;

const HOSTILE: Prefix = Prefix::new(b"../x");

fn main() {}
