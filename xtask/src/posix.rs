//! `cargo xtask posix`: pjdfstest, a suite for what POSIX says of file systems, on the union of two branches.

use crate::options::Options;
use crate::report::{Skip, Tally};
use crate::run::{self, cargo, command, is_root};
use crate::setup::{self, For};
use crate::test::{self, Scratch};
use crate::{Result, leaks::Snapshot};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const SUITE: &str = "pjdfstest";
/// The version that `conformance/expected-skips.txt` was written for.
const VERSION: &str = "0.2.1";
/// What is asked of Linux, by users that every Debian has. A pause is longer than a tick of the clock of any file system.
const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}

[settings]
naptime = 0.02
allow_remount = REMOUNTS

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;
/// What is in the names of the tests that remount. They are run by themselves: an earlier test leaves a file open, and then
/// no file system can be made read-only.
const REMOUNTING: &str = "::erofs_";
/// Runs the suite where mount(8) finds our program: the suite remounts, and `mount.fuse`, where there is one, looks for the
/// programs of file systems in the system's directories only.
const SCRIPT: &str = r#"
[ ! -e "$1" ] || [ ! -e /sbin/mount.fuse ] || mount --bind "$1" /sbin/mount.fuse || exit
shift
exec "$@"
"#;
/// The package whose program mounts the union, and the program.
pub(crate) const PACKAGE: &str = "mica-aufs-compat";
const PROGRAM: &str = "mica-aufs";
/// How the union is mounted.
const MODES: [(&str, &str); 2] = [("passthrough", "passthrough"), ("cached", "nopassthrough")];

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err("the tests mount file systems and become other users: run them as root".to_owned());
    }
    setup::ensure(For::Tests, options.install)?;
    let expected = test::expected_skips()?;
    let scratch = Scratch::create()?;
    let before = Snapshot::take(scratch.dir());
    let target = run::target_dir()?;
    let tally = match &options.dir {
        Some(dir) => {
            Suite::prepare(&target, scratch.dir(), options.install)?.on(dir, &dir.to_string_lossy())?
        }
        None => on_unions(&target, scratch.dir(), options.install)?,
    };
    let mut faults = before.differences();
    faults.extend(scratch.leftovers()?);
    let faultless = test::print(&tally, &expected, &faults);
    Ok(if faultless { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the suite on a union that is mounted in each way. `scratch` is for its branches, and empty afterwards.
pub(crate) fn on_unions(target: &Path, scratch: &Path, install: bool) -> Result<Tally> {
    let suite = Suite::prepare(target, scratch, install)?;
    let mut build = cargo();
    build.args(["build", "--package", PACKAGE, "--bin", PROGRAM]).env("CARGO_TARGET_DIR", target);
    if !run::passes(&mut build)? {
        return Err(format!("{PROGRAM}: the build failed"));
    }
    let mut tally = Tally::default();
    for (mode, option) in MODES {
        println!("test: {SUITE} on a union, {mode}");
        let union = Union::mount(suite.programs(), scratch, option)?;
        tally.add(suite.on(&union.target().join("tests"), mode)?);
        union.unmount()?;
    }
    Ok(tally)
}

/// The suite's program and configuration.
#[derive(Debug)]
struct Suite {
    program: PathBuf,
    /// Without and with tests that remount.
    configurations: [PathBuf; 2],
    /// A directory on another file system than what is tested.
    elsewhere: PathBuf,
    programs: PathBuf,
}

impl Suite {
    /// Installs the program into the build directory, unless it is there.
    fn prepare(target: &Path, scratch: &Path, install: bool) -> Result<Self> {
        let root = target.join(format!("{SUITE}-{VERSION}"));
        let program = root.join("bin").join(SUITE);
        if !program.exists() {
            if !install {
                return Err(format!("no {}: leave out --no-install", program.display()));
            }
            println!("setup: cargo install {SUITE} {VERSION} (a minute)");
            let mut build = cargo();
            build.args(["install", "--quiet", "--locked", SUITE, "--version", VERSION, "--root"]).arg(&root);
            if !run::passes(&mut build)? {
                return Err(format!("{SUITE} could not be installed"));
            }
        }
        let configurations = ["false", "true"].map(|remounts| root.join(format!("remounts-{remounts}.toml")));
        for (path, remounts) in configurations.iter().zip(["false", "true"]) {
            let text = CONFIGURATION.replace("REMOUNTS", remounts);
            fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(Self { program, configurations, elsewhere: scratch.to_owned(), programs: target.join("debug") })
    }

    /// Where our programs are.
    fn programs(&self) -> &Path {
        &self.programs
    }

    /// Runs it all in a directory of the file system that is tested, which `what` names in failures.
    fn on(&self, dir: &Path, what: &str) -> Result<Tally> {
        let [most, remounting] = &self.configurations;
        let mut tally = self.run(most, &[], dir, what)?;
        let left_out = tally.skips.len();
        tally.skips.retain(|skip| !skip.name.contains(REMOUNTING));
        let left_out = left_out - tally.skips.len();
        let rest = self.run(remounting, &[REMOUNTING], dir, what)?;
        if rest.passed + rest.failed.len() != left_out {
            tally.failed.push(format!("{SUITE}, {what}: {left_out} tests were left out at first"));
        }
        tally.add(rest);
        Ok(tally)
    }

    /// Runs those whose names have the patterns in them.
    fn run(&self, configuration: &Path, patterns: &[&str], dir: &Path, what: &str) -> Result<Tally> {
        let mut suite = command("unshare");
        suite
            .args(["--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh"])
            .arg(self.programs.join(PROGRAM));
        suite.arg(&self.program).arg("--configuration-file").arg(configuration);
        suite.arg("--secondary-fs").arg(&self.elsewhere).arg("--path").arg(dir).args(patterns);
        suite.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0");
        let output = suite.output().map_err(|e| format!("{}: {e}", self.program.display()))?;
        Ok(parse(&String::from_utf8_lossy(&output.stdout), what))
    }
}

/// Reads the lines `NAME OUTCOME`, each with lines about it after a tab, and the summary.
fn parse(text: &str, what: &str) -> Tally {
    let mut tally = Tally::default();
    let mut told = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("Summary:") {
            told = line.split(", ").find_map(|count| count.strip_suffix(" total")?.parse::<usize>().ok());
        }
        let mut words = line.split_whitespace();
        let (Some(name), Some(outcome), None) = (words.next(), words.next(), words.next()) else { continue };
        let mut about = || lines.next_if(|line| line.starts_with('\t')).unwrap_or_default().trim().to_owned();
        match outcome {
            "ok" => tally.passed += 1,
            "FAILED" => tally.failed.push(format!("{SUITE} {name}, {what}: {}", about())),
            "skipped" => tally.skips.push(Skip { name: format!("{SUITE}/{name}"), reason: about() }),
            _ => {}
        }
    }
    if told != Some(tally.passed + tally.failed.len() + tally.skips.len()) {
        tally.failed.push(format!("{SUITE}, {what}: it ended before it had run everything"));
    }
    tally
}

/// A union of a branch that is empty and one that has the directory `tests`. It is unmounted with the value.
#[derive(Debug)]
struct Union {
    dir: PathBuf,
    mounted: bool,
}

impl Union {
    fn mount(programs: &Path, scratch: &Path, option: &str) -> Result<Self> {
        let mut union = Self { dir: scratch.join("union"), mounted: false };
        for dir in ["rw", "ro/tests", "mnt"].map(|name| union.dir.join(name)) {
            fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        let branch = |name: &str| union.dir.join(name).display().to_string();
        let branches = format!("br:{}=rw:{}=ro+wh", branch("rw"), branch("ro"));
        let mut mount = command(programs.join(PROGRAM));
        mount.arg(branches).arg(union.target()).args(["-o", option]);
        union.mounted = run::passes(&mut mount)?;
        if !union.mounted {
            return Err(format!("{PROGRAM} could not mount a union"));
        }
        Ok(union)
    }

    fn target(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    fn unmount(mut self) -> Result<()> {
        self.mounted = false;
        run::output(command("umount").arg(self.target()))?;
        run::remove_tree(&self.dir)
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run::output(command("umount").arg("--lazy").arg(self.target()));
        }
        // Gone already where it was unmounted.
        let _ = run::remove_tree(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "unlink::remove_type::char                 FAILED
\tcalled `Result::unwrap()` on an `Err` value: EPERM
\tmore
unlink::remove_type::block                                              ok
link::link_count_max                                                skipped
\tCannot get value for LINK_MAX: filesystem limit is unknown

Summary: 1 failed, 1 skipped, 1 passed, 0 expected failures, 3 total
";

    #[test]
    fn what_passed_failed_and_was_skipped_is_counted() {
        let tally = parse(OUTPUT, "cached");
        assert_eq!(tally.passed, 1);
        let failure = "called `Result::unwrap()` on an `Err` value: EPERM";
        assert_eq!(tally.failed, [format!("pjdfstest unlink::remove_type::char, cached: {failure}")]);
        let [skip] = &tally.skips[..] else { panic!("{:?}", tally.skips) };
        assert_eq!(skip.name, "pjdfstest/link::link_count_max");
        assert!(skip.reason.ends_with("filesystem limit is unknown"));
    }

    #[test]
    fn a_suite_that_ends_early_has_failed() {
        let all = OUTPUT.replace(" FAILED", " ok");
        assert!(parse(&all, "cached").failed.is_empty());
        let early = all.split("Summary").next().unwrap_or_default();
        assert_eq!(
            parse(early, "cached").failed,
            ["pjdfstest, cached: it ended before it had run everything"]
        );
        let one_less = all.replace("3 total", "4 total");
        assert_eq!(parse(&one_less, "cached").failed.len(), 1);
    }
}
