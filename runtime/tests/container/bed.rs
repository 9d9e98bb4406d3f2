//! A root file system of busybox, a spec for it, and a supervisor; all gone with the value.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Process, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::supervisor::{Made, Result, Supervisor};

/// Applets that tests use.
const APPLETS: &str = "cat cut dd df echo env false find grep head hostname id ip kill ln ls mkdir mknod mount nproc \
    ps pwd readlink rm sed sh sleep sort stat stty sysctl tail test touch tr true tty ulimit umask umount wc which";

pub(crate) struct Bed {
    dir: TempDir,
    pub(crate) id: String,
    pub(crate) spec: Spec,
    pub(crate) supervisor: Supervisor,
}

/// What a process printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) output: String,
}

impl Bed {
    /// One whose command is a shell script.
    pub(crate) fn new(script: &str) -> Self {
        Self::with_command(&["sh", "-c", script])
    }

    pub(crate) fn with_command(args: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("mica-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        make_root(&root);
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut spec = mica_runtime::default_spec(&root, &args);
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(PathBuf::from(format!("/{id}"))));
        Self { dir, id, spec, supervisor: Supervisor::spawn() }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// A path beside the root file system.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.spec.process_mut().as_mut().unwrap()
    }

    pub(crate) fn linux(&mut self) -> &mut oci_spec::runtime::Linux {
        self.spec.linux_mut().as_mut().unwrap()
    }

    pub(crate) fn create(&mut self) -> Result<Made> {
        let output = self.path("out");
        self.supervisor.create(&self.id, &self.spec, &output)
    }

    /// Creates and starts; the first process's number.
    pub(crate) fn up(&mut self) -> i32 {
        let made = self.create().unwrap();
        self.supervisor.start().unwrap();
        made.pid
    }

    /// From create to delete.
    pub(crate) fn run(&mut self) -> Ran {
        let pid = self.up();
        let code = self.supervisor.wait(pid);
        self.supervisor.delete().unwrap();
        Ran { code, output: self.output() }
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap_or_default()
    }

    /// The process of the spec with another command.
    pub(crate) fn joining(&self, args: &[&str]) -> Process {
        let mut process = self.spec.process().clone().unwrap();
        process.set_args(Some(args.iter().map(ToString::to_string).collect()));
        process
    }

    /// Runs a shell script in the running container.
    pub(crate) fn exec(&mut self, script: &str) -> Ran {
        let process = self.joining(&["sh", "-c", script]);
        self.exec_process(&process)
    }

    pub(crate) fn exec_process(&mut self, process: &Process) -> Ran {
        let output = self.path("exec");
        let _ = fs::remove_file(&output);
        let made = self.supervisor.exec(process, &output).unwrap();
        let code = self.supervisor.wait(made.pid);
        Ran { code, output: fs::read_to_string(output).unwrap() }
    }

    /// The directories of the container's control groups, those that exist.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> =
            fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()).collect();
        dirs.push("/sys/fs/cgroup".into());
        dirs.into_iter().map(|dir| dir.join(&self.id)).filter(|dir| dir.exists()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.supervisor.crash();
        let removed = mica_runtime::remove_cgroup(Path::new(&format!("/{}", self.id)));
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// How long a test waits for what must come at once, on however busy a host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds that another process brings about.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// A process, and never another one that got its number later.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    /// The process that has this number now, living or a zombie.
    pub(crate) fn new(pid: i32) -> Self {
        Self(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap())
    }

    /// Waits for its end; it may be a zombie then.
    pub(crate) fn ends(&self) {
        let patience = PATIENCE.try_into().unwrap();
        let answered = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience));
        assert_eq!(answered, Ok(1), "the process lives after {PATIENCE:?}");
    }
}

fn make_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static is installed");
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

/// Whether a program is there to compare with.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
