//! Unions that are mounted as a user mounts them, by the program, for the tests of this crate.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod edits;
pub(crate) mod files;
pub(crate) mod sys;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use mica_conformance::tree::Snapshot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mica-aufs");

/// How the kernel gets at the content of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// From the branch, where it can.
    Passthrough,
    /// By asking the server, through the page cache.
    Cached,
}

impl Mode {
    pub(crate) const BOTH: [Self; 2] = [Self::Passthrough, Self::Cached];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "nopassthrough",
        }
    }
}

/// A test that is run in both modes.
pub(crate) type Test = (&'static str, fn(Mode));

/// The tests with their names.
macro_rules! tests {
    ($($module:ident::$test:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($test)), $module::$test as fn(crate::common::Mode))),*]
    };
}
pub(crate) use tests;

/// The `main` of a test program.
pub(crate) fn main(tests: &'static [Test]) -> ExitCode {
    // What a test makes is as it says, whatever the umask of who runs it.
    rustix::process::umask(rustix::fs::Mode::empty());
    sys::leave_the_mounts_of_others();
    drop_unions();
    let trials = Mode::BOTH.into_iter().flat_map(|mode| {
        tests.iter().map(move |&(name, test)| {
            Trial::test(format!("{}/{name}", mode.name()), move || {
                std::panic::catch_unwind(|| test(mode)).map_err(|_| Failed::without_message())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Unmounts the unions of others, whose servers would wait for us to end.
fn drop_unions() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    for target in
        mounts.lines().filter(|line| line.contains(" fuse.")).filter_map(|line| line.split(' ').nth(1))
    {
        // It may be below another one.
        let _ = unmount(target, UnmountFlags::DETACH);
    }
}

/// Directories to make a union of, and one to mount it at. They go with the value.
pub(crate) struct Branches {
    dir: TempDir,
    attributes: Vec<&'static str>,
    mode: Mode,
}

impl Branches {
    /// One that can be written over one that cannot.
    pub(crate) fn two(mode: Mode) -> Self {
        Self::new(mode, &["rw", "ro+wh"])
    }

    /// With these attributes, the topmost first.
    pub(crate) fn new(mode: Mode, attributes: &[&'static str]) -> Self {
        Self::below(&std::env::temp_dir(), mode, attributes)
    }

    /// In a new directory below an existing one.
    pub(crate) fn below(parent: &Path, mode: Mode, attributes: &[&'static str]) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let it = Self { dir, attributes: attributes.to_vec(), mode };
        for number in 0..attributes.len() {
            files::mkdir(&it.path(number));
        }
        files::mkdir(&it.target());
        it
    }

    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }

    /// A name on the topmost branch.
    pub(crate) fn upper(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path(0).join(name)
    }

    /// A name on the second branch.
    pub(crate) fn lower(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path(1).join(name)
    }

    /// A place for what is not part of the union.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// It is deeper than the branches, so that a relative link out of a branch leads elsewhere from the union.
    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join("mounted/union")
    }

    /// What each branch but the topmost holds.
    pub(crate) fn all_lower(&self) -> Vec<Snapshot> {
        (1..self.attributes.len()).map(|number| Snapshot::of(&self.path(number)).unwrap()).collect()
    }

    /// The branches as the program takes them.
    fn list(&self) -> String {
        let each = self.attributes.iter().enumerate();
        let each: Vec<String> =
            each.map(|(number, attribute)| format!("{}={attribute}", self.path(number).display())).collect();
        format!("br:{}", each.join(":"))
    }

    fn command(&self, options: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        let mode = self.mode.option();
        let options = if options.is_empty() { mode.to_owned() } else { format!("{mode},{options}") };
        command.arg(self.list()).arg(self.target()).args(["-o", &options]).stdin(Stdio::null());
        command
    }

    pub(crate) fn mount(&self) -> Union {
        self.mount_by(&mut self.command(""))
    }

    pub(crate) fn mount_with(&self, options: &str) -> Union {
        self.mount_by(&mut self.command(options))
    }

    /// Mounts with a server that may have so many descriptors.
    pub(crate) fn mount_with_descriptors(&self, most: u32) -> Union {
        let command = self.command("");
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--nofile={most}:{most}")).arg(PROGRAM).args(command.get_args());
        self.mount_by(&mut limited)
    }

    /// What the program says to something that it must refuse.
    pub(crate) fn refused(&self, arguments: &[&OsStr]) -> String {
        let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            unmount(self.target(), UnmountFlags::DETACH).unwrap();
            panic!("{arguments:?} was taken");
        }
        String::from_utf8(output.stderr).unwrap()
    }

    /// Tries to mount, with whatever outcome.
    pub(crate) fn try_mount(&self) -> Result<Union, Output> {
        let output = self.command("").output().unwrap();
        if !output.status.success() {
            return Err(output);
        }
        Ok(self.mounted())
    }

    fn mount_by(&self, command: &mut Command) -> Union {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        self.mounted()
    }

    fn mounted(&self) -> Union {
        let target = self.target();
        let mut union = Union { target, server: None, gone: false };
        union.server = Some(server(self.dir.path()));
        union
    }
}

/// The process that serves a union: it was told of branches in this directory.
fn server(dir: &Path) -> (Pid, OwnedFd) {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        // Whoever builds meanwhile puts another file in its place, and then the name ends in "(deleted)".
        let program = fs::read_link(entry.path().join("exe")).ok()?;
        let ours = program.as_os_str().as_bytes().starts_with(PROGRAM.as_bytes());
        let dir = dir.as_os_str().as_bytes();
        (ours && words.windows(dir.len()).any(|part| part == dir)).then_some(number)
    });
    let servers: Vec<i32> = numbers.collect();
    let &[number] = &servers[..] else { panic!("{servers:?} serve a union in {}", dir.display()) };
    let pid = Pid::from_raw(number).unwrap();
    (pid, pidfd_open(pid, PidfdFlags::empty()).unwrap())
}

/// A mounted union. Dropping it unmounts it.
pub(crate) struct Union {
    target: PathBuf,
    server: Option<(Pid, OwnedFd)>,
    gone: bool,
}

impl Union {
    /// A name in it.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.target.join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.target
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.target).unwrap()
    }

    /// Unmounts it, and returns when the server has ended.
    pub(crate) fn unmount(mut self) {
        // A test in another thread may have started a program, which has our descriptors until it executes.
        let patience = Instant::now() + Duration::from_secs(5);
        while let Err(error) = unmount(&self.target, UnmountFlags::empty()) {
            assert!(error == Errno::BUSY && Instant::now() < patience, "unmount: {error}");
            std::thread::yield_now();
        }
        self.gone = true;
        assert!(self.ends(), "the server outlives its mount");
    }

    /// Has the kernel forget every file that is not in use.
    pub(crate) fn forget(&self) {
        rustix::mount::mount_remount(&self.target, rustix::mount::MountFlags::empty(), "").unwrap();
    }

    /// Kills the server and waits for its end.
    pub(crate) fn kill(&self) {
        let (_, server) = self.server.as_ref().unwrap();
        pidfd_send_signal(server, Signal::KILL).unwrap();
        assert!(self.ends(), "the server survived");
    }

    /// The directory of the server's process in `/proc`.
    pub(crate) fn process(&self) -> PathBuf {
        let (pid, _) = self.server.as_ref().unwrap();
        PathBuf::from(format!("/proc/{pid}"))
    }

    /// Whether the server is gone, or goes within some seconds.
    fn ends(&self) -> bool {
        let Some((_, server)) = &self.server else { return true };
        let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&patience)).unwrap() == 1
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let _ = unmount(&self.target, UnmountFlags::DETACH);
        if let Some((_, server)) = self.server.as_ref().filter(|_| !self.ends()) {
            let _ = pidfd_send_signal(server, Signal::KILL);
        }
    }
}

/// A file system of its own, for a while.
pub(crate) struct Volume(PathBuf);

impl Volume {
    /// A tmpfs of so many KiB on a directory.
    pub(crate) fn tmpfs(dir: PathBuf, kib: u64) -> Self {
        Self::with_files(dir, kib, 0)
    }

    /// The same for at most so many files, directories and names besides the first of each file; 0 for any number.
    pub(crate) fn with_files(dir: PathBuf, kib: u64, most: u64) -> Self {
        files::mkdir(&dir);
        let size = std::ffi::CString::new(format!("size={kib}k,nr_inodes={most},mode=755")).unwrap();
        rustix::mount::mount("none", &dir, "tmpfs", rustix::mount::MountFlags::empty(), Some(&*size))
            .unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}
