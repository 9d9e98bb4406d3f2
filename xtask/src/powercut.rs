//! `cargo xtask power-cut`: a guest loses its power while it stores layers, again and again, and nothing that it was told
//! was stored may be missing afterwards.

use crate::guest::{Guest, Job};
use crate::options::Options;
use crate::report::Tally;
use crate::run::{self, cargo};
use crate::setup;
use crate::{Result, rootfs};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCRIPT: &str = "xtask/guest/power-cut.sh";
/// The stores that are tried: a driver and its options on each line.
const STORES: &str = include_str!("../guest/power-cut-stores.txt");
/// The store's disk, and two more. They take what is written to them.
const DISKS: [(&str, u64); 3] = [("store", 4 << 30), ("data", 2 << 30), ("metadata", 64 << 20)];
const CUTS: usize = 3;
/// How many images a life stores before the power goes, at most.
const IMAGES: u64 = 4;
/// The power goes at some moment of so many milliseconds, which an image takes.
const SPAN: u64 = 3000;
const LIMIT: Duration = Duration::from_secs(400);

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    let guest = Guest::prepare(&run::target_dir()?, options.install)?;
    let tally = all(&guest, &run::target_dir()?)?;
    for failed in &tally.failed {
        println!("failed: {failed}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cuts the power of guests that store on each driver.
pub(crate) fn all(guest: &Guest, target: &Path) -> Result<Tally> {
    let mut build = cargo();
    build.args(["build", "--package=mica-engine", "--bin=mica"]).args(setup::features()?);
    if !run::passes(build.env("CARGO_TARGET_DIR", target))? {
        return Err("power cuts: the build failed".to_owned());
    }
    let mut tally = Tally::default();
    for line in STORES.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [driver, options @ ..] = words.as_slice() else { continue };
        let name = format!("power cuts of {line}");
        println!("test: {name}");
        let store = Store::create(target)?;
        match store.lives(guest, driver, options, &name) {
            Ok(()) => tally.passed += 1,
            Err(error) => tally.failed.push(format!("{name}: {error}")),
        }
    }
    Ok(tally)
}

/// The disks that survive.
struct Store {
    dir: PathBuf,
    mica: PathBuf,
    image: PathBuf,
}

impl Store {
    fn create(target: &Path) -> Result<Self> {
        let cache = target.join("guest");
        let dir = cache.join(format!("power-cut.{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let store = Self { mica: target.join("debug/mica"), image: rootfs::busybox(&cache)?, dir };
        for (disk, (name, size)) in store.disks().iter().zip(DISKS) {
            let made = fs::File::create(disk).and_then(|file| file.set_len(size));
            made.map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(store)
    }

    fn disks(&self) -> Vec<PathBuf> {
        DISKS.iter().map(|(name, _)| self.dir.join(name)).collect()
    }

    /// Stores and cuts, then has what is there verified and removed.
    fn lives(&self, guest: &Guest, driver: &str, options: &[&str], name: &str) -> Result<()> {
        let mut chance = Chance::new();
        let mut kept = Vec::new();
        for _ in 0..CUTS {
            let cut = (chance.below(IMAGES), Duration::from_millis(chance.below(SPAN)));
            if self.life(guest, driver, options, name, &mut kept, Some(cut))?.is_some() {
                return Err("it ended before its power was cut".to_owned());
            }
        }
        match self.life(guest, driver, options, name, &mut kept, None)? {
            Some(0) => Ok(()),
            status => Err(format!("the last life ended with status {status:?}")),
        }
    }

    /// One life, which adds to the images that are `kept`. The power goes some time after the start of so many of them.
    fn life(
        &self,
        guest: &Guest,
        driver: &str,
        options: &[&str],
        name: &str,
        kept: &mut Vec<String>,
        cut: Option<(u64, Duration)>,
    ) -> Result<Option<u8>> {
        let mut command = ["sh", SCRIPT, driver].map(str::to_owned).to_vec();
        command.extend(options.iter().map(|option| format!("--storage-opt={option}")));
        let variables = [
            ("MICA", self.mica.display().to_string()),
            ("IMAGE", self.image.display().to_string()),
            ("KEPT", kept.join(" ")),
            ("LAST", u8::from(cut.is_none()).to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value));
        let disks = self.disks();
        let job = Job {
            command: &command,
            variables: &variables,
            disks: &disks,
            scratch: "ext4",
            memory: 1024,
            limit: LIMIT,
            brings: &[],
        };
        let (lost, mut begun) = (RefCell::new(None), 0);
        let status = guest.run_until(&job, |line| {
            println!("{name}: {line}");
            if line.starts_with("lost: ") {
                lost.borrow_mut().get_or_insert(line.to_owned());
            }
            kept.extend(line.strip_prefix("kept ").map(str::to_owned));
            begun += u64::from(line.starts_with("begin "));
            let (images, delay) = cut?;
            (line.starts_with("begin ") && begun == images + 1).then_some(delay)
        })?;
        if status.is_none() {
            println!("{name}: the power is cut");
        }
        match lost.into_inner() {
            Some(lost) => Err(lost),
            None => Ok(status),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = run::remove_tree(&self.dir) {
            eprintln!("xtask: {error}");
        }
    }
}

/// Moments that nobody chose.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        Self(now | 1)
    }

    /// By xorshift64.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
