//! Network namespaces that play machines.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};

/// A machine's namespace. It goes when nothing is left in it and this is dropped.
pub(crate) struct Namespace {
    network: File,
    /// Those of this machine, unless it has others.
    mounts: Option<File>,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = Self { network: thread::spawn(make).join().unwrap(), mounts: None };
        namespace.ip("link set lo up");
        // Else the first second of each link is spent on looking for duplicates of its link-local address, without which
        // neither end forwards IPv6.
        namespace.set("ipv6/conf/default/accept_dad", "0");
        namespace
    }

    /// Its `iptables` and `ip6tables` are those of the kernel's older tables from now on. Fails where there are none.
    pub(crate) fn with_legacy_iptables(self) -> io::Result<Self> {
        let program = |name: &str| Path::new("/usr/sbin").join(name).canonicalize();
        let (usual, legacy) = (program("iptables")?, program("iptables-legacy")?);
        let make = || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            // Each is one program under many names, and tells by its name which it is.
            mount_bind(legacy, usual)?;
            File::open("/proc/thread-self/ns/mnt")
        };
        let mounts = thread::spawn(make).join().unwrap()?;
        Ok(Self { mounts: Some(mounts), ..self })
    }

    /// Does something on a thread inside. A socket that is made there stays there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.network, CloneFlags::CLONE_NEWNET).unwrap();
            if let Some(mounts) = &self.mounts {
                // Whoever shares a working directory with others cannot enter.
                unshare(CloneFlags::CLONE_FS).unwrap();
                setns(mounts, CloneFlags::CLONE_NEWNS).unwrap();
            }
            work()
        };
        match thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a program inside, and gives what it printed, or what it said against it.
    pub(crate) fn try_program(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = self.run(|| Command::new(program).args(args).output().unwrap());
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) fn program(&self, program: &str, args: &[&str]) -> String {
        self.try_program(program, args).unwrap_or_else(|why| panic!("{program} {args:?}: {why}"))
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) -> String {
        self.program("ip", &words.split(' ').collect::<Vec<_>>())
    }

    /// Writes a setting below `/proc/sys/net`.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap());
    }

    /// Its name for a program of this machine.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }
}
