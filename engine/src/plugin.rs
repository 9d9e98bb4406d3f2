//! The CNI plugin by itself. `mica cni` does the same; but each container of a runtime costs the start of a program, and a
//! third of the size starts faster.

use std::process::ExitCode;

fn main() -> ExitCode {
    mica_engine::plugin(mica_engine::drivers::networks())
}
