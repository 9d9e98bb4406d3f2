//! `cargo xtask bench`: what whole commands cost.

use crate::Result;
use crate::options::Options;
use crate::rootfs;
use crate::run::{self, cargo, command, is_root};
use crate::setup::{self, For};
use std::fs;
use std::process::ExitCode;

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err("the benchmarks mount file systems and start containers: run them as root".to_owned());
    }
    setup::ensure(For::Tests, options.install)?;
    let mut build = cargo();
    build.args(["build", "--release", "--package=mica-engine", "--package=mica-bench", "--bins"]);
    if !run::passes(&mut build)? {
        return Err("the build failed".to_owned());
    }
    let target = run::target_dir()?;
    let rootfs = rootfs::prepare(&target.join("demo"))?;
    let out = target.join("bench");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let mut bench = command(target.join("release/mica-bench"));
    bench.arg("--mica").arg(target.join("release/mica")).arg("--rootfs").arg(&rootfs.tar);
    bench.arg("--json").arg(out.join("samples.json")).args(&options.rest);
    Ok(if run::passes(&mut bench)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
