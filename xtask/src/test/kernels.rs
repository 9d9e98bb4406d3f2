//! The tests that need more of a kernel than the host's may have: natively where it will do, else in a guest.

use super::{Run, chosen};
use crate::Result;
use crate::guest::{Guest, Job};
use crate::powercut;
use crate::report::Tally;
use crate::run::{self, command};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The profiles of `.config/nextest.toml` that say which tests these are.
const DEVICE_MAPPER: &str = "device-mapper";
const OLD_KERNEL: &str = "old-kernel";

/// A guest that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(40 * 60);
const MEMORY: u32 = 3072;
/// Begins a line that tells of something that the tests left in the guest.
const LEFT: &str = "left behind: ";
/// Run in the guest. Tells what is left, and ends as the tests did.
const SCRIPT: &str = r#"
"$@"
status=$?
for device in /sys/block/dm-* /sys/block/loop*/loop; do
    [ ! -e "$device" ] || echo "left behind: $device ($(cat "$device"/dm/name "$device"/backing_file 2> /dev/null))"
done
grep " $TMPDIR/" /proc/mounts | sed 's/^/left behind: mount /'
ls -A "$TMPDIR" | grep -v '^lost+found$' | sed 's/^/left behind: file /'
exit $status
"#;

/// Tests of one profile in a guest with temporary files on this file system.
#[derive(Clone, Copy)]
struct Suite {
    name: &'static str,
    profile: &'static str,
    /// Which part of the tests, as nextest's `--partition` has it.
    part: &'static str,
    scratch: &'static str,
}

/// What is done in guests of its own.
#[derive(Clone, Copy)]
enum Task {
    Tests(Suite),
    PowerCuts,
}

/// The long ones first. The tests of device mapper take half of the time, and are cut in two.
const OF_DEVICE_MAPPER: [Suite; 2] = [
    Suite { name: "device mapper 1/2", profile: DEVICE_MAPPER, part: "slice:1/2", scratch: "ext4" },
    Suite { name: "device mapper 2/2", profile: DEVICE_MAPPER, part: "slice:2/2", scratch: "ext4" },
];
const OF_OLD_KERNEL: [Suite; 2] = [
    Suite { name: "old kernel on ext4", profile: OLD_KERNEL, part: "slice:1/1", scratch: "ext4" },
    Suite { name: "old kernel on xfs", profile: OLD_KERNEL, part: "slice:1/1", scratch: "xfs" },
];

impl Run {
    /// Runs them all.
    pub(super) fn on_other_kernels(&self, packages: &[String], install: bool) -> Result<Tally> {
        let mut suites = OF_OLD_KERNEL.to_vec();
        let mut tally = Tally::default();
        match lacking() {
            None => {
                println!("test: device mapper on this host");
                let here = Path::new(".");
                tally.add(self.nextest("device mapper", here, DEVICE_MAPPER, &chosen(packages)?)?);
            }
            Some(why) => {
                println!("test: device mapper in a guest, since this host has none: {why}");
                suites.splice(0..0, OF_DEVICE_MAPPER);
            }
        }
        suites.retain(|suite| self.has_tests(suite.profile, packages));
        let mut tasks: Vec<Task> = suites.into_iter().map(Task::Tests).collect();
        if packages.is_empty() {
            tasks.push(Task::PowerCuts);
        }
        if !tasks.is_empty() {
            tally.add(self.in_guests(&tasks, packages, install)?);
        }
        Ok(tally)
    }

    /// Does as many tasks at a time as there are processors, since a guest has one.
    fn in_guests(&self, tasks: &[Task], packages: &[String], install: bool) -> Result<Tally> {
        let guest = Guest::prepare(&self.target, install)?;
        let binaries = Binaries::list(self, packages)?;
        let queue = Mutex::new(tasks.iter().copied());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let mut tally = Tally::default();
            while let Some(task) = next() {
                let done = match task {
                    Task::Tests(suite) => suite.run(&guest, &binaries, &self.target),
                    Task::PowerCuts => powercut::all(&guest, &self.target),
                };
                tally.add(done.unwrap_or_else(|error| Tally::of_failure(format!("a guest: {error}"))));
            }
            tally
        };
        let workers = thread::available_parallelism().map_or(1, usize::from).min(tasks.len());
        let tallies: Vec<Tally> = thread::scope(|scope| {
            let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
            ended
                .map(|ended| {
                    ended.unwrap_or_else(|_| Tally::of_failure("a guest's thread panicked".to_owned()))
                })
                .collect()
        });
        let mut tally = Tally::default();
        for of_worker in tallies {
            tally.add(of_worker);
        }
        Ok(tally)
    }

    /// Whether a profile has any test in the packages; a failure to tell shows when they are run.
    fn has_tests(&self, profile: &str, packages: &[String]) -> bool {
        let mut list = self.cargo();
        list.args(["nextest", "list", "--message-format=oneline", "--profile", profile]);
        let chosen = chosen(packages).unwrap_or_default();
        run::output(list.args(chosen)).map_or(true, |listed| !listed.trim().is_empty())
    }
}

/// What this host lacks for device mapper and its thin pools.
fn lacking() -> Option<String> {
    // Where modules can be loaded this is all that it takes; where not, it changes nothing.
    let _ = command("modprobe").args(["-q", "dm-thin-pool"]).status();
    let control = "/dev/mapper/control";
    if let Err(error) = fs::File::open(control) {
        return Some(format!("{control}: {error}"));
    }
    let target = Path::new("/sys/module/dm_thin_pool");
    (!target.exists()).then(|| format!("there is no {}", target.display()))
}

/// What was built, as nextest in a guest is told of it: it has no time for cargo.
struct Binaries {
    workspace: PathBuf,
    programs: PathBuf,
}

impl Binaries {
    fn list(run: &Run, packages: &[String]) -> Result<Self> {
        let dir = run.target.join("guest");
        let it = Self { workspace: dir.join("workspace.json"), programs: dir.join("programs.json") };
        let json = ["--message-format=json", "--list-type=binaries-only"];
        let mut list = run.cargo();
        let programs = run::output(list.args(["nextest", "list"]).args(json).args(chosen(packages)?))?;
        let workspace = run::output(run.cargo().args(["metadata", "--format-version=1"]))?;
        for (path, text) in [(&it.programs, programs), (&it.workspace, workspace)] {
            fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(it)
    }
}

impl Suite {
    fn run(self, guest: &Guest, binaries: &Binaries, target: &Path) -> Result<Tally> {
        let Self { name, profile, part, scratch } = self;
        println!("test: {name}, in a guest");
        let report = target.join(format!("guest/{}.xml", name.replace([' ', '/'], "-")));
        super::forget(&report)?;
        let words = [
            "sh",
            "-c",
            SCRIPT,
            "sh",
            "cargo-nextest",
            "nextest",
            "run",
            "--run-ignored=all",
            "--no-tests=pass",
        ];
        let mut command = words.map(str::to_owned).to_vec();
        // Its output is a terminal there.
        command.extend(["--color=never", "--show-progress=none"].map(str::to_owned));
        command.extend([format!("--profile={profile}"), format!("--partition={part}")]);
        command.push(format!("--cargo-metadata={}", binaries.workspace.display()));
        command.push(format!("--binaries-metadata={}", binaries.programs.display()));
        let job = Job {
            command: &command,
            variables: &[],
            disks: &[],
            scratch,
            memory: MEMORY,
            limit: LIMIT,
            brings: &[(super::report_of(Path::new("."), profile), report.clone())],
        };
        let left = Mutex::new(Vec::new());
        let status = guest.run(&job, |line| {
            println!("{name}: {line}");
            if line.starts_with(LEFT) {
                left.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {line}"));
            }
        })?;
        let mut tally = Tally::from_junit(&fs::read_to_string(&report).unwrap_or_default());
        for failed in &mut tally.failed {
            *failed = format!("{name}: {failed}");
        }
        if status != 0 && tally.failed.is_empty() {
            tally.failed.push(format!("{name}: nextest ended before it had run the tests"));
        }
        tally.failed.extend(left.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(tally)
    }
}
