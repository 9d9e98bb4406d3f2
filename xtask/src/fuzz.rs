//! `cargo xtask fuzz`: each fuzz target of the repository for a while.

use crate::Result;
use crate::options::Options;
use crate::run::{command, output, passes};
use std::fs;
use std::process::ExitCode;

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    output(command("cargo").args(["+nightly", "fuzz", "--version"])).map_err(|_| {
        "needs `rustup toolchain install nightly`, `cargo install --locked cargo-fuzz` and the package g++".to_owned()
    })?;
    let mut failed = 0;
    for dir in fuzz_dirs() {
        let targets = output(command("cargo").args(["+nightly", "fuzz", "list", "--fuzz-dir", &dir]))?;
        for target in targets.lines() {
            println!("fuzz: {dir} {target}, {} s", options.seconds);
            let time = format!("-max_total_time={}", options.seconds);
            let mut fuzz = command("cargo");
            fuzz.args(["+nightly", "fuzz", "run", "--fuzz-dir", &dir, target, "--", &time]);
            failed += u32::from(!passes(&mut fuzz)?);
        }
    }
    println!("fuzz: {failed} targets failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The `fuzz` directories of the crates at the top of the repository.
fn fuzz_dirs() -> Vec<String> {
    let entries = fs::read_dir(".").into_iter().flatten().flatten();
    let dirs = entries.map(|entry| entry.path().join("fuzz")).filter(|dir| dir.join("Cargo.toml").exists());
    let mut dirs: Vec<String> = dirs.map(|dir| dir.display().to_string()).collect();
    dirs.sort();
    dirs
}
