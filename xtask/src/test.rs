//! `cargo xtask test`: the whole suite, what it skipped, and what it left behind.

mod kernels;

use crate::Result;
use crate::leaks::Snapshot;
use crate::options::Options;
use crate::posix;
use crate::report::{self, Tally};
use crate::run::{self, cargo, is_root};
use crate::setup::{self, For};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const EXPECTED: &str = "conformance/expected-skips.txt";
const EXAMPLES_CONFIG: &str = ".config/nextest-examples.toml";

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err("the tests mount file systems and start containers: run them as root".to_owned());
    }
    if setup::ensure(For::Tests, options.install)? {
        println!("test: tests that need what is missing will fail");
    }
    let expected = expected_skips()?;

    let scratch = Scratch::create()?;
    let before = Snapshot::take(&scratch.dir);
    let run = Run { target: run::target_dir()?, scratch: scratch.dir.clone() };
    let mut tally = run.all(&options.packages)?;
    if options.packages.is_empty() || options.packages.iter().any(|name| name == posix::PACKAGE) {
        let posix = posix::on_unions(&run.target, &run.scratch, options.install);
        tally.add(posix.unwrap_or_else(Tally::of_failure));
    }
    if options.guest {
        let guests = run.on_other_kernels(&options.packages, options.install);
        tally.add(guests.unwrap_or_else(Tally::of_failure));
    } else {
        println!("test: left out, as asked: what needs a guest");
    }
    let mut faults = before.differences();
    faults.extend(scratch.leftovers()?);

    let faultless = print(&tally, &expected, &faults);
    Ok(if faultless { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The skips that were reviewed.
pub(crate) fn expected_skips() -> Result<Vec<report::Expected>> {
    let list = fs::read_to_string(EXPECTED).map_err(|e| format!("{EXPECTED}: {e}"))?;
    report::expected(&list).map_err(|e| format!("{EXPECTED}: {e}"))
}

/// Prints skips, failures and faults, then the counts as the last line. Returns whether all is well.
pub(crate) fn print(tally: &Tally, expected: &[report::Expected], faults: &[String]) -> bool {
    let mut well = tally.failed.is_empty() && faults.is_empty();
    println!();
    for skip in &tally.skips {
        let told = match report::allowing(expected, skip) {
            Some(entry) => format!("expected without {}", entry.feature),
            None => {
                well = false;
                format!("UNEXPECTED: not in {EXPECTED}")
            }
        };
        println!("skipped: {}: {} ({told})", skip.name, skip.reason);
    }
    for name in &tally.failed {
        println!("failed: {name}");
    }
    for fault in faults {
        println!("{fault}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed.len(), tally.skips.len());
    well
}

struct Run {
    target: PathBuf,
    scratch: PathBuf,
}

impl Run {
    /// Runs the suite, or that of `packages`. What fails to build counts as a failure, and the rest still runs.
    fn all(&self, packages: &[String]) -> Result<Tally> {
        let chosen = chosen(packages)?;
        let mut tally = self.nextest("the workspace", Path::new("."), "default", &chosen)?;
        tally.add(self.doc_tests(&chosen)?);
        if packages.is_empty() {
            for example in examples() {
                let manifest = format!("--manifest-path={}", example.join("Cargo.toml").display());
                let args = [manifest, format!("--config-file={EXAMPLES_CONFIG}")];
                tally.add(self.nextest(&example.display().to_string(), &example, "default", &args)?);
            }
        }
        Ok(tally)
    }

    /// Runs the tests of the workspace in `root`, below which nextest puts its report, wherever it builds.
    fn nextest(&self, what: &str, root: &Path, profile: &str, args: &[String]) -> Result<Tally> {
        let junit = report_of(root, profile);
        forget(&junit)?;
        println!("test: {what}");
        let mut nextest = self.cargo();
        nextest
            .args(["nextest", "run", "--run-ignored=all", "--no-tests=pass", "--profile", profile])
            .args(args);
        let passed = run::passes(&mut nextest)?;
        let mut tally = Tally::from_junit(&fs::read_to_string(&junit).unwrap_or_default());
        if !passed && tally.failed.is_empty() {
            tally.failed.push(format!("{what}: cargo nextest ended before it had run the tests"));
        }
        Ok(tally)
    }

    fn doc_tests(&self, args: &[String]) -> Result<Tally> {
        println!("test: examples in the documentation");
        let (text, passed) = run::echoed(self.cargo().args(["test", "--doc", "--no-fail-fast"]).args(args))?;
        let mut tally = Tally::from_libtest(&text);
        if !passed && tally.failed.is_empty() {
            tally.failed.push("examples in the documentation: cargo test --doc failed".to_owned());
        }
        Ok(tally)
    }

    fn cargo(&self) -> Command {
        let mut cargo = cargo();
        cargo.env("TMPDIR", &self.scratch).env("CARGO_TARGET_DIR", &self.target);
        cargo
    }
}

/// What cargo is told to build: these packages, or all that can be built here.
fn chosen(packages: &[String]) -> Result<Vec<String>> {
    let mut chosen: Vec<String> = packages.iter().map(|name| format!("--package={name}")).collect();
    if chosen.is_empty() {
        chosen.push("--workspace".to_owned());
    }
    chosen.extend(setup::features()?.iter().map(|&feature| feature.to_owned()));
    Ok(chosen)
}

/// Where nextest puts the report of a profile.
fn report_of(root: &Path, profile: &str) -> PathBuf {
    root.join("target/nextest").join(profile).join("junit.xml")
}

/// A report of an earlier run must not be taken for this one's.
fn forget(report: &Path) -> Result<()> {
    match fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", report.display()))
        }
        _ => Ok(()),
    }
}

/// The examples, each a workspace of its own as it would be outside this repository.
fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir("examples").into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|dir| dir.join("Cargo.toml").exists()).collect();
    dirs.sort();
    dirs
}

/// The tests' directory for temporary files, which must be empty at the end.
///
/// It is on disk, since /tmp may be a tmpfs; its path is short, for the sake of unix sockets; and every user may
/// pass through it, for tests that drop privileges.
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    pub(crate) fn create() -> Result<Self> {
        let dir = PathBuf::from(format!("/var/tmp/mica-test.{}", std::process::id()));
        let cannot = |e| format!("{}: {e}", dir.display());
        fs::create_dir(&dir).map_err(cannot)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).map_err(cannot)?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))?;
        let left = entries.flatten().map(|entry| format!("left behind: {}", shown(&entry.path())));
        Ok(left.collect())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = run::remove_tree(&self.dir) {
            eprintln!("xtask: {error}");
        }
    }
}

/// A left-over path, with a few of the names in it, which tell whose it was.
fn shown(path: &Path) -> String {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().take(4);
    let inside: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    match inside[..] {
        [] => path.display().to_string(),
        _ => format!("{} (with {})", path.display(), inside.join(", ")),
    }
}
