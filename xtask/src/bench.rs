//! `cargo xtask bench`: what whole commands cost.

use crate::Result;
use crate::guest::{Guest, Job};
use crate::options::Options;
use crate::rootfs;
use crate::run::{self, cargo, command, is_root};
use crate::setup::{self, For};
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const MEMORY: u32 = 4096;
const LIMIT: Duration = Duration::from_secs(3600);

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err("the benchmarks mount file systems and start containers: run them as root".to_owned());
    }
    setup::ensure(For::Tests, options.install)?;
    let mut build = cargo();
    build.args(["build", "--release", "--bins"]);
    build.args(["--package=mica-engine", "--package=mica-aufs-compat", "--package=mica-bench"]);
    if !run::passes(&mut build)? {
        return Err("the build failed".to_owned());
    }
    let target = run::target_dir()?;
    let rootfs = rootfs::prepare(&target.join("demo"))?;
    let out = target.join("bench");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let path = |path: &Path| path.display().to_string();
    let samples = out.join(if options.in_guest { "guest.json" } else { "samples.json" });
    let mut words = vec![path(&target.join("release/mica-bench"))];
    words.extend(["--mica".to_owned(), path(&target.join("release/mica"))]);
    words.extend(["--rootfs".to_owned(), path(&rootfs.tar), "--json".to_owned(), path(&samples)]);
    if options.in_guest {
        words.extend(["--dir", "/var/tmp"].map(str::to_owned));
    }
    words.extend(options.rest.iter().cloned());
    if options.in_guest {
        return in_guest(&target, options, &words, &samples);
    }
    let passed = run::passes(command(&words[0]).args(&words[1..]))?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures under the guest's kernel, on its disk for temporary files.
fn in_guest(target: &Path, options: &Options, words: &[String], samples: &Path) -> Result<ExitCode> {
    let guest = Guest::prepare(target, options.install)?;
    let job = Job {
        command: words,
        variables: &[],
        disks: &[],
        scratch: &options.scratch,
        memory: MEMORY,
        limit: LIMIT,
        brings: &[(samples.to_owned(), samples.to_owned())],
    };
    Ok(ExitCode::from(guest.run(&job, |line| println!("{line}"))?))
}
