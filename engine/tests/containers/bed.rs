//! A data root with an image of busybox, and the command that works on it, in a network namespace of its own. What is left
//! of it fails the test.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Time};
use mica_conformance::network::enter_new;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::run;

pub(crate) const MICA: &str = env!("CARGO_BIN_EXE_mica");

/// Somewhere containers run.
pub(crate) struct Bed {
    dir: TempDir,
    pub(crate) driver: String,
    /// The OCI runtime; `None` is the built-in one.
    pub(crate) runtime: Option<&'static str>,
    /// Options of the driver.
    options: &'static [&'static str],
    /// Containers have no network unless it is asked for.
    lonely: bool,
}

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Every storage driver of this host, with the built-in runtime.
pub(crate) fn each(test: impl Fn(&Bed)) {
    for driver in drivers() {
        Bed::new(&driver, None).with_image(&test);
    }
}

/// As [`each`], and then with runc.
pub(crate) fn each_runtime(test: impl Fn(&Bed)) {
    each(&test);
    on_runtime("runc", &drivers()[0], &test);
}

/// As [`each_runtime`], and then with crun.
pub(crate) fn every_runtime(test: impl Fn(&Bed)) {
    each_runtime(&test);
    on_runtime("crun", &drivers()[0], &test);
}

/// One driver is enough for what no driver takes part in.
pub(crate) fn once(test: impl Fn(&Bed)) {
    Bed::new(&drivers()[0], None).with_image(&test);
}

/// As [`once`], and then with runc, on another driver if there is one.
pub(crate) fn either_runtime(test: impl Fn(&Bed)) {
    once(&test);
    on_runtime("runc", drivers().last().unwrap(), &test);
}

/// This driver alone, with options; it must be there.
pub(crate) fn on(driver: &str, options: &'static [&'static str], test: impl Fn(&Bed)) {
    let known = drivers();
    assert!(known.iter().any(|name| name == driver), "this host has {known:?} only");
    let mut bed = Bed::new(driver, None);
    bed.options = options;
    // What is about a driver may run under a kernel that has no bridges.
    bed.lonely = true;
    bed.with_image(&test);
}

fn on_runtime(runtime: &'static str, driver: &str, test: &impl Fn(&Bed)) {
    if Command::new(runtime).arg("--version").output().is_ok() {
        Bed::new(driver, Some(runtime)).with_image(test);
    } else {
        eprintln!("skip: engine/containers-on-{runtime}: {runtime} is not installed");
    }
}

fn drivers() -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(MICA);
    command.arg("--root").arg(dir.path()).args(["drivers", "--format", "{{.Name}} {{.Status}}"]);
    let answer = Answer::from(command.output().unwrap());
    let names: Vec<String> =
        answer.out.lines().filter_map(|line| line.strip_suffix(" available")).map(str::to_owned).collect();
    assert!(!names.is_empty(), "{answer:?}");
    names
}

impl Bed {
    fn new(driver: &str, runtime: Option<&'static str>) -> Self {
        enter_own_network();
        let dir = tempfile::tempdir().unwrap();
        Self { dir, driver: driver.to_owned(), runtime, options: &[], lonely: false }
    }

    fn with_image(self, test: &impl Fn(&Self)) {
        let tar = self.file("busybox.tar", &busybox());
        self.ok(&["import", &tar, "busybox"]);
        test(&self);
        self.clear();
        self.assert_nothing_left();
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A place beside the data root.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Imports an image that has busybox, its shell, and these members.
    pub(crate) fn import(&self, name: &str, members: &[(&str, Kind, &[u8])]) {
        let program = program();
        let size = program.len() as u64;
        let own = [
            ("bin/", Kind::Directory, &b""[..]),
            ("bin/busybox", Kind::File { size, sparse: None }, &program),
            ("bin/sh", Kind::Symlink(b"busybox".to_vec()), b""),
        ];
        let mut tar = Writer::new(Vec::new());
        for (path, kind, mut content) in own.into_iter().chain(members.iter().cloned()) {
            tar.append(&entry(path, kind, 0o755), &mut content).unwrap();
        }
        let file = self.file("members.tar", &tar.finish().unwrap());
        self.ok(&["import", &file, name]);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = if self.runtime == Some("crun") { without_unified() } else { Command::new(MICA) };
        command.arg("--root").arg(self.root()).args(["--storage-driver", &self.driver]).args(self.options);
        command.args(self.runtime.map(|runtime| format!("--runtime={runtime}")));
        match arguments {
            [verb @ ("run" | "create"), rest @ ..] if self.lonely => {
                command.args([verb, "--network=none"]).args(rest)
            }
            _ => command.args(arguments),
        };
        command.env_remove("MICA_FAILPOINT").env_remove("MICA_ROOT").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn with_failpoint(&self, point: &str, arguments: &[&str]) -> Answer {
        self.command(arguments).env("MICA_FAILPOINT", point).output().unwrap().into()
    }

    pub(crate) fn with_input(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut child = self.spawn(self.command(arguments).stdin(Stdio::piped()));
        // A command that refuses its input does not read to the end of it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap().into()
    }

    /// Starts a command whose output can be read.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What the command prints; it must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.status, Some(0), "mica {arguments:?} on {}: {}", self.driver, answer.err);
        answer.out
    }

    /// What the command says when it fails with this status: one line.
    pub(crate) fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.status, Some(status), "mica {arguments:?}: {answer:?}");
        assert!(answer.err.starts_with("mica: ") && answer.err.lines().count() == 1, "{answer:?}");
        answer.err
    }

    /// What a command in a new container prints.
    pub(crate) fn sh(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    }

    /// A field of what `inspect` shows.
    pub(crate) fn field(&self, name: &str, template: &str) -> String {
        self.ok(&["inspect", "-f", template, name]).trim().to_owned()
    }

    /// The process of a container's supervisor.
    pub(crate) fn supervisor(&self, name: &str) -> i32 {
        let pid = self.field(name, "{{.State.Pid}}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
    }

    /// Removes every container.
    pub(crate) fn clear(&self) {
        let ids = self.ok(&["ps", "-aq"]);
        for id in ids.lines() {
            self.ok(&["rm", "-f", "-v", id]);
        }
    }

    /// There is nothing half-made, and nothing that records do not name.
    pub(crate) fn assert_consistent(&self) {
        let answer = self.run(&["storage", "check", "--full"]);
        assert!(answer.status == Some(0) && answer.out.ends_with("all is well\n"), "{answer:?}");
        for directory in ["intents", "tmp", "locks"] {
            let left: Vec<_> = fs::read_dir(self.root().join(directory)).unwrap().collect();
            assert!(left.is_empty(), "{directory}: {left:?}");
        }
    }

    /// No container is left: no mount, no process that has anything of the root open, no record, no layer of one.
    fn assert_nothing_left(&self) {
        self.assert_consistent();
        assert!(fs::read_dir(self.root().join("containers")).unwrap().next().is_none());
        let root = self.root();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(root.to_str().unwrap()), "{mounts}");
        // A supervisor that has told of its end is about to be gone.
        eventually("processes are gone", || users(&root).is_empty());
    }
}

/// Leaves the machine's network for one that nothing else is in: this thread, and whatever it starts from now on.
fn enter_own_network() {
    enter_new().unwrap();
    // A host that forwards already is not changed by a network, so there is nothing that the first container tells of it.
    for (setting, value) in
        [("ipv4/ip_forward", "1"), ("ipv6/conf/default/accept_ra", "2"), ("ipv6/conf/all/forwarding", "1")]
    {
        match fs::write(Path::new("/proc/sys/net").join(setting), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            written => written.unwrap(),
        }
    }
}

/// `mica` where only version 1 of control groups is mounted: crun 1.8 refuses to run where a controller is in the unified
/// hierarchy beside it.
fn without_unified() -> Command {
    let mut command = Command::new("unshare");
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh", MICA]);
    command
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test that failed leaves containers; they must not outlive it.
            let ids = self.run(&["ps", "-aq"]).out;
            ids.lines().for_each(|id| drop(self.run(&["rm", "-f", id])));
        }
        run::clear(&self.root());
    }
}

/// The processes that have a file below `root` open.
fn users(root: &Path) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let has_open = |process: &PathBuf| {
        let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(root)))
    };
    processes.map(|entry| entry.path()).filter(has_open).collect()
}

/// How long a test waits for what is about to happen, on however busy a host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what another process is about to do; fails when it does not.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process, and never another one that got its number later.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    /// The process that has this number now.
    pub(crate) fn new(pid: i32) -> Self {
        Self(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap())
    }

    /// Waits for its end.
    pub(crate) fn ends(&self) {
        let patience = PATIENCE.try_into().unwrap();
        let answered = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience));
        assert_eq!(answered, Ok(1), "the process lives on");
    }
}

/// Ends a process as a crash would, and waits until it is gone.
pub(crate) fn kill(pid: i32) {
    let process = Watched::new(pid);
    pidfd_send_signal(&process.0, Signal::KILL).unwrap();
    process.ends();
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn program() -> Vec<u8> {
    fs::read("/bin/busybox").expect("busybox-static is installed")
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    let (mtime, xattrs) = (Time { seconds: 1_700_000_000, nanoseconds: 0 }, Vec::new());
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime, xattrs }
}

/// The tarball of a small root file system around the host's static busybox.
fn busybox() -> Vec<u8> {
    let program = program();
    let mut tar = Writer::new(Vec::new());
    let mut put = |path: &str, kind: Kind, mode: u32, content: &[u8]| {
        tar.append(&entry(path, kind, mode), &mut &content[..]).unwrap();
    };
    for directory in ["bin/", "etc/", "root/", "tmp/", "srv/"] {
        put(directory, Kind::Directory, if directory == "tmp/" { 0o1777 } else { 0o755 }, b"");
    }
    put("bin/busybox", Kind::File { size: program.len() as u64, sparse: None }, 0o755, &program);
    let applets = "sh cat ls echo id sleep rm mkdir touch ln kill grep head stty tty env pwd mount umount dd hostname wc \
                   ps true false tail mkfifo chmod chown sync ulimit printf seq test readlink stat";
    for applet in applets.split_whitespace() {
        put(&format!("bin/{applet}"), Kind::Symlink(b"busybox".to_vec()), 0o777, b"");
    }
    let file = |text: &str| Kind::File { size: text.len() as u64, sparse: None };
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n";
    put("etc/passwd", file(passwd), 0o644, passwd.as_bytes());
    let group = "root:x:0:\nweb:x:34:\ntape:x:26:web\n";
    put("etc/group", file(group), 0o644, group.as_bytes());
    put("srv/page", file("from the image\n"), 0o600, b"from the image\n");
    tar.finish().unwrap()
}
