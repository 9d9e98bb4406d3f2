//! The `mica` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mica_engine::main(mica_engine::drivers::registry())
}
