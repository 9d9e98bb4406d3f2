//! The command `mica-aufs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mica_aufs_compat::command::main(std::env::args_os())
}
