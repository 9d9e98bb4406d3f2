//! A container, as its supervisor sees it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::cgroup::{Cgroup, Entrance};
use crate::channel::Channel;
use crate::child::Child;
use crate::error::{Context, Error, Result};
use crate::launch::{Place, fail, launch, open_namespaces, settle};
use crate::plan::{Plan, ProcessPlan};
use crate::running::{Io, Running, is_reaped, reap_killed};
use crate::seccomp::{self, Program};

/// What a container is made from.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    /// Names the control group where the spec has no `cgroupsPath`.
    pub id: &'a str,
    /// The directory that a relative root path of the spec is meant relative to.
    pub dir: &'a Path,
    /// What to run, and how.
    pub spec: &'a Spec,
    /// Where compiled seccomp filters are kept between containers; `None` compiles each time.
    pub seccomp_cache: Option<&'a Path>,
}

/// A container from its creation to its deletion. It belongs to one single-threaded process.
///
/// Dropping it changes nothing: processes run on until their supervisor ends, and control groups stay until
/// [`delete`](Self::delete) or [`remove_cgroup`].
#[derive(Debug)]
pub struct Container {
    init: Running,
    /// Until the container is started.
    channel: Option<Channel>,
    process: Process,
    filter: Option<Program>,
    namespaces: libc::c_int,
    cgroup: Cgroup,
    entrance: Entrance,
    /// The processes that `exec` made, until they are known to be reaped.
    joined: Vec<OwnedFd>,
}

impl Container {
    /// Makes the control groups, namespaces and file system of a container, and its first process, which
    /// waits for [`start`](Self::start) before it executes its command. A command that cannot be found is an
    /// error already here.
    ///
    /// The caller has one thread. It becomes undumpable, and stays so, for nothing inside may look into a
    /// process on its way in (CVE-2016-9962).
    ///
    /// # Errors
    ///
    /// Any; nothing is left of the container then.
    pub fn create(bundle: &Bundle<'_>, io: &Io<'_>) -> Result<Self> {
        let (plan, filter, mut cgroup) = check(bundle)?;
        set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "hiding the supervisor")?;
        cgroup.create(resources(bundle))?;
        let namespaces = plan.namespaces.all();
        match launch_init(bundle, plan, io, filter.as_ref(), &cgroup) {
            Ok((init, channel, entrance)) => Ok(Self {
                init,
                channel: Some(channel),
                process: bundle.spec.process().clone().unwrap_or_default(),
                filter,
                namespaces,
                cgroup,
                entrance,
                joined: Vec::new(),
            }),
            Err(error) => Err(Error::with(error, cgroup.remove())),
        }
    }

    /// The first process, also after its end.
    #[must_use]
    pub fn init(&self) -> &Running {
        &self.init
    }

    /// As [`init`](Self::init), to take its terminal or notes out.
    pub fn init_mut(&mut self) -> &mut Running {
        &mut self.init
    }

    /// The process that the container was created with: what [`exec`](Self::exec) starts from.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The network namespace, for a driver to attach to and to hold after the last process ended.
    ///
    /// # Errors
    ///
    /// The container's first process is gone and reaped.
    pub fn network_namespace(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/net", self.init.pid);
        openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("opening {path}"))
    }

    /// Executes the command.
    ///
    /// # Errors
    ///
    /// The command could not be executed, which ends and reaps the first process, or it was started before.
    pub fn start(&mut self) -> Result<()> {
        let channel = self.channel.take().ok_or_else(|| Error::spec("the container was started already"))?;
        if channel.send_go().is_err() {
            self.init.end()?;
            return Err(Error::Stopped);
        }
        settle(&channel, &self.init)
    }

    /// Runs a further process in the container. What `process` leaves open (capabilities, rlimits,
    /// no_new_privileges) is as the first process has it; the seccomp filter and the control groups always
    /// are.
    ///
    /// # Errors
    ///
    /// The container has ended, or the process could not be made or executed; no process and no zombie is
    /// left.
    pub fn exec(&mut self, process: &Process, io: &Io<'_>) -> Result<Running> {
        if !self.init.is_running() {
            return Err(Error::Stopped);
        }
        if self.channel.is_some() {
            return Err(Error::spec("the container is not started yet"));
        }
        let plan = ProcessPlan::new(&self.inherit(process))?;
        let init = self.init.pidfd.as_fd();
        let pid_namespace = (self.namespaces & libc::CLONE_NEWPID != 0).then_some(init);
        let (filter, entrance) = (self.filter.as_ref(), &self.entrance);
        let attempt = |group| {
            launch(&Place { namespaces: 0, pid_namespace, group }, |channel| {
                Child { io, channel, filter, entrance }.join(plan.clone(), init, self.namespaces)
            })
        };
        let (running, channel) = match attempt(entrance.unified()) {
            // The container made groups of its own below and moved there: no process can be in the upper one
            // now.
            Err(Error::Os { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
                let group = self.cgroup.unified_of(self.init.pid)?;
                attempt(group.as_ref().map(AsFd::as_fd))
            }
            launched => launched,
        }?;
        let kept = rustix::io::dup(&running.pidfd).context(|| "keeping a process");
        let kept = kept.map_err(|error| fail(&running, Err(error)))?;
        settle(&channel, &running)?;
        self.joined.retain(|pidfd| !is_reaped(pidfd));
        self.joined.push(kept);
        Ok(running)
    }

    fn inherit(&self, process: &Process) -> Process {
        let mut process = process.clone();
        if process.capabilities().is_none() {
            process.set_capabilities(self.process.capabilities().clone());
        }
        if process.rlimits().is_none() {
            process.set_rlimits(self.process.rlimits().clone());
        }
        if process.no_new_privileges().is_none() {
            process.set_no_new_privileges(self.process.no_new_privileges());
        }
        if process.oom_score_adj().is_none() {
            process.set_oom_score_adj(self.process.oom_score_adj());
        }
        process
    }

    /// Sends a signal, a real-time one too, to the first process.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when it has ended.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.init.signal(signal)
    }

    /// Sends a signal to every process of the container. SIGKILL also reaches a paused one.
    ///
    /// # Errors
    ///
    /// The groups cannot be read, or a process refused the signal.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        self.cgroup.kill(signal)?;
        // A frozen process of a v1 group dies when it is thawed.
        if signal == libc::SIGKILL { self.cgroup.thaw() } else { Ok(()) }
    }

    /// The processes of the container, by their numbers in the supervisor's pid namespace.
    ///
    /// # Errors
    ///
    /// The groups cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        Ok(self.cgroup.processes()?.into_iter().map(Pid::as_raw_pid).collect())
    }

    /// Stops every process until [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// A process cannot be stopped; all run on then.
    pub fn pause(&self) -> Result<()> {
        self.cgroup.freeze()
    }

    /// Undoes [`pause`](Self::pause); does nothing to a container that is not paused.
    ///
    /// # Errors
    ///
    /// The host has no freezer, or a process does not follow.
    pub fn resume(&self) -> Result<()> {
        self.cgroup.thaw()
    }

    /// Sets the limits that `resources` names; others stay.
    ///
    /// # Errors
    ///
    /// A limit that the kernel refuses; those before it are set.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.cgroup.apply(resources)
    }

    /// Kills and reaps what is left of the container and removes its control groups. May be repeated.
    ///
    /// It reaps the first process and those of [`exec`](Self::exec) that were not yet, since the first cannot
    /// end while another is a zombie. Whoever wants to know how they ended reaps them before.
    ///
    /// # Errors
    ///
    /// [`Error::Teardown`] with everything that could not be removed.
    pub fn delete(&mut self) -> Result<()> {
        self.channel = None;
        let mut failures: Vec<Error> = self.signal_all(libc::SIGKILL).err().into_iter().collect();
        for pidfd in self.joined.drain(..) {
            failures.extend(reap_killed(&pidfd).context(|| "reaping a process of the container").err());
        }
        failures.extend(self.init.end().err());
        failures.extend(self.cgroup.remove());
        Error::all(failures)
    }
}

/// Kills what is in the control groups of a container whose supervisor died, and removes them; does nothing
/// where there are none.
///
/// # Errors
///
/// [`Error::Teardown`] with everything that could not be removed.
pub fn remove_cgroup(path: &Path) -> Result<()> {
    let mut cgroup = Cgroup::locate(path)?;
    let mut failures: Vec<Error> = cgroup.kill(libc::SIGKILL).err().into_iter().collect();
    failures.extend(cgroup.thaw().err());
    failures.extend(cgroup.remove());
    Error::all(failures)
}

/// Everything that can be refused before anything is made.
fn check(bundle: &Bundle<'_>) -> Result<(Plan, Option<Program>, Cgroup)> {
    let threads = std::fs::read_dir("/proc/self/task").context(|| "counting threads")?.count();
    if threads != 1 {
        return Err(Error::spec(format!(
            "a container is made by a process of one thread; this one has {threads}"
        )));
    }
    let plan = Plan::new(bundle.spec, bundle.dir)?;
    let linux = bundle.spec.linux().as_ref();
    let filter = match (linux.and_then(|linux| linux.seccomp().as_ref()), bundle.seccomp_cache) {
        (None, _) => None,
        (Some(profile), Some(dir)) => Some(seccomp::cached(profile, dir)?),
        (Some(profile), None) => Some(seccomp::compile(profile)?),
    };
    let path =
        linux.and_then(|linux| linux.cgroups_path().clone()).filter(|path| !path.as_os_str().is_empty());
    let cgroup = Cgroup::locate(&path.unwrap_or_else(|| PathBuf::from(format!("/{}", bundle.id))))?;
    Ok((plan, filter, cgroup))
}

fn resources<'a>(bundle: &Bundle<'a>) -> Option<&'a LinuxResources> {
    bundle.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

/// Limits the groups and makes the first process in them.
fn launch_init(
    bundle: &Bundle<'_>,
    mut plan: Plan,
    io: &Io<'_>,
    filter: Option<&Program>,
    cgroup: &Cgroup,
) -> Result<(Running, Channel, Entrance)> {
    if let Some(resources) = resources(bundle) {
        cgroup.apply(resources)?;
    }
    let joined = open_namespaces(&plan.namespaces.join)?;
    let entrance = cgroup.entrance()?;
    let place = Place {
        // A cgroup namespace is made later, from inside the group.
        namespaces: plan.namespaces.new & !libc::CLONE_NEWCGROUP,
        pid_namespace: joined.iter().find(|(flag, _)| *flag == libc::CLONE_NEWPID).map(|(_, fd)| fd.as_fd()),
        group: entrance.unified(),
    };
    let (init, channel) = launch(&place, |channel| {
        Child { io, channel, filter, entrance: &entrance }.init(&mut plan, &joined, cgroup)
    })?;
    Ok((init, channel, entrance))
}
