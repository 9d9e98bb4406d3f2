//! The control groups of one container: one on a v2 host, one for each hierarchy on v1 and hybrid hosts.

mod device_filter;
mod devices;
mod freezer;
mod hierarchy;
mod resources;
mod v1;
mod v2;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::Pid;

pub(crate) use hierarchy::{Hierarchy, Version};

use crate::error::{Context, Error, Result};
use crate::sys;

/// How long the last processes may take to leave a group after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// The groups named by one path in every mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Cgroup {
    groups: Vec<Group>,
    /// Directories above the groups that `create` had to make, deepest last.
    parents: Vec<PathBuf>,
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    hierarchy: Hierarchy,
    dir: PathBuf,
}

impl Group {
    /// Makes the group and the parents it lacks, and adds what was made to `made`.
    fn create(&self, controllers: &[&str], made: &mut Vec<PathBuf>) -> Result<()> {
        let what = |dir: &Path| format!("making control group {}", dir.display());
        let mut dir = self.hierarchy.mountpoint.clone();
        let names = self.dir.strip_prefix(&dir).unwrap_or(Path::new(""));
        for name in names.components() {
            if self.hierarchy.version == Version::V2 {
                v2::delegate(&dir, controllers);
            }
            dir.push(name);
            match fs::create_dir(&dir) {
                Ok(()) => made.push(dir.clone()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && dir != self.dir => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return Err(Error::spec(format!("control group {} is in use", dir.display())));
                }
                Err(error) => return Err(error).context(|| what(&dir)),
            }
            if self.hierarchy.version == Version::V1 && self.hierarchy.has("cpuset") {
                v1::inherit_cpuset(&dir).context(|| what(&dir))?;
            }
        }
        Ok(())
    }
}

impl Cgroup {
    /// Finds where the groups of `path` are, or would be. `path` begins at the root of each hierarchy.
    pub(crate) fn locate(path: &Path) -> Result<Self> {
        let mut components = path.components();
        let rooted = components.next() == Some(Component::RootDir);
        let below: Option<PathBuf> = components
            .map(|component| match component {
                Component::Normal(name) => Some(Path::new(name)),
                _ => None,
            })
            .collect();
        let Some(below) = below.filter(|below| rooted && !below.as_os_str().is_empty()) else {
            let path = path.display();
            return Err(Error::spec(format!("control group path {path} must be like /name or /parent/name")));
        };
        let hierarchies = hierarchy::mounted().context(|| "reading /proc/self/mountinfo")?;
        let group = |hierarchy: Hierarchy| Group { dir: hierarchy.mountpoint.join(&below), hierarchy };
        Ok(Self { groups: hierarchies.into_iter().map(group).collect(), parents: Vec::new() })
    }

    /// Makes the groups, empty and without limits, but able to have those of `resources`. On failure those
    /// that were made are removed again; one that was there already is an error, for its processes and limits
    /// are another's.
    pub(crate) fn create(&mut self, resources: Option<&LinuxResources>) -> Result<()> {
        let (controllers, mut made) = (v2::controllers(resources), Vec::new());
        let created = self.groups.iter().try_for_each(|group| group.create(&controllers, &mut made));
        match created {
            Ok(()) => {
                made.retain(|dir| self.groups.iter().all(|group| group.dir != *dir));
                self.parents = made;
            }
            // Nothing is in them yet; a parent that another container came to share stays.
            Err(_) => made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir))),
        }
        created
    }

    /// What a process needs to enter all groups.
    pub(crate) fn entrance(&self) -> Result<Entrance> {
        let mut entrance = Entrance { unified: None, v1: Vec::with_capacity(self.groups.len()) };
        for group in &self.groups {
            let (path, flags) = match group.hierarchy.version {
                Version::V1 => (group.dir.join("cgroup.procs"), OFlags::WRONLY),
                Version::V2 => (group.dir.clone(), OFlags::PATH | OFlags::DIRECTORY),
            };
            let fd = openat(CWD, &path, flags | OFlags::CLOEXEC, Mode::empty())
                .context(|| format!("opening control group {}", path.display()))?;
            match group.hierarchy.version {
                Version::V1 => entrance.v1.push(fd),
                Version::V2 => entrance.unified = Some(fd),
            }
        }
        Ok(entrance)
    }

    /// Sends `signal` to every process in the groups, those of nested groups too.
    pub(crate) fn kill(&self, signal: i32) -> Result<()> {
        if let Some(group) = self.v2()
            && signal == libc::SIGKILL
            && fs::write(group.dir.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for pid in self.processes()? {
            match sys::kill(pid, signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(error).context(|| format!("signalling process {pid}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The processes in the groups and in groups nested in them.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>> {
        let group = self.v2().or_else(|| self.v1("pids")).or_else(|| self.groups.first());
        let mut pids = Vec::new();
        if let Some(group) = group {
            collect(&group.dir, &mut pids)
                .context(|| format!("reading control group {}", group.dir.display()))?;
        }
        Ok(pids)
    }

    /// Removes the groups, what was nested in them, and the parents that were made for them and are empty
    /// now. Returns what could not be removed; what is not there counts as removed.
    pub(crate) fn remove(&mut self) -> Vec<Error> {
        let mut failures = Vec::new();
        let mut failed = |dir: &Path, source| {
            failures.push(Error::Os { what: format!("removing control group {}", dir.display()), source });
        };
        for group in &self.groups {
            if let Err(error) = remove_tree(&group.dir) {
                failed(&group.dir, error);
            }
        }
        let in_use = |errno| matches!(errno, Some(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY));
        for parent in self.parents.drain(..).rev() {
            if let Err(error) = fs::remove_dir(&parent)
                && !in_use(error.raw_os_error())
            {
                failed(&parent, error);
            }
        }
        failures
    }

    /// The v2 group in which the process `pid` is now: that of the container, or one below it.
    pub(crate) fn unified_of(&self, pid: i32) -> Result<Option<OwnedFd>> {
        let Some(group) = self.v2() else { return Ok(None) };
        let what = || format!("finding the control group of process {pid}");
        let list = fs::read_to_string(format!("/proc/{pid}/cgroup")).context(what)?;
        let path = list.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let dir = group.hierarchy.mountpoint.join(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &dir, flags, Mode::empty()).map(Some).context(what)
    }

    /// The group's directory on a host that has v2 only.
    pub(crate) fn unified_only(&self) -> Option<&Path> {
        match self.groups.as_slice() {
            [group] if group.hierarchy.version == Version::V2 => Some(&group.dir),
            _ => None,
        }
    }

    /// The name of each hierarchy and the directory of its group.
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.groups.iter().map(|group| (group.hierarchy.name(), group.dir.as_path()))
    }

    /// Single controllers of hierarchies that have several: `cpu` is an alias of `cpu,cpuacct`.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        let shared = self.groups.iter().filter(|group| group.hierarchy.controllers.len() > 1);
        shared.flat_map(|group| {
            let name = group.hierarchy.name();
            group.hierarchy.controllers.iter().map(move |alias| (alias.as_str(), name))
        })
    }

    fn v2(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.hierarchy.version == Version::V2)
    }

    fn v1(&self, controller: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.hierarchy.version == Version::V1 && group.hierarchy.has(controller))
    }
}

/// Open files by which a process enters the groups of a container, for its whole life.
#[derive(Debug)]
pub(crate) struct Entrance {
    unified: Option<OwnedFd>,
    v1: Vec<OwnedFd>,
}

impl Entrance {
    /// The v2 group to be cloned into.
    pub(crate) fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process into the v1 groups.
    pub(crate) fn enter_v1(&self) -> Result<()> {
        self.v1.iter().try_for_each(|procs| {
            rustix::io::write(procs, b"0").map(drop).context(|| "entering the container's control group")
        })
    }
}

fn collect(dir: &Path, pids: &mut Vec<Pid>) -> io::Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => return Ok(()),
        // A threaded group has no list of processes; its domain's lists them.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        text => text?,
    };
    pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
    nested(dir)?.iter().try_for_each(|dir| collect(dir, pids))
}

fn nested(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// A group is busy until its last process has ended, which takes a moment after SIGKILL.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let removed = match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                nested(dir)?.iter().try_for_each(|dir| remove_tree(dir))?;
                fs::remove_dir(dir)
            }
            removed => removed,
        };
        match removed {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            removed => return removed,
        }
    }
}
