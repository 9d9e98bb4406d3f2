//! The `mica` command with one more network driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    mica_engine::main(mica_engine::drivers::registry().network(hello_network::NETWORK))
}
