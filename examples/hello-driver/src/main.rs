//! The `mica` command with one more driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    mica_engine::main(mica_engine::drivers::registry().storage(hello_driver::DRIVER))
}
