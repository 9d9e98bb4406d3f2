//! What a new process does between clone and exec, in the child of the supervisor.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{setsid, umask};

use crate::cgroup::{Cgroup, Entrance};
use crate::channel::Channel;
use crate::error::{Context, Result};
use crate::plan::{Plan, ProcessPlan};
use crate::rootfs::Rootfs;
use crate::seccomp::Program;
use crate::terminal::{Terminal, standard_streams};
use crate::{Io, process, sys};

/// What every new process needs to know.
#[derive(Debug)]
pub(crate) struct Child<'a> {
    pub(crate) io: &'a Io<'a>,
    pub(crate) channel: &'a Channel,
    pub(crate) filter: Option<&'a Program>,
    pub(crate) entrance: &'a Entrance,
}

impl Child<'_> {
    /// Becomes the first process of a container; waits for `go` before the command is executed.
    pub(crate) fn init(
        &self,
        plan: &mut Plan,
        joined: &[(i32, OwnedFd)],
        cgroup: &Cgroup,
    ) -> Result<Infallible> {
        self.begin()?;
        let mut notes: Vec<String> =
            process::adjust_oom_score(plan.process.oom_score_adj)?.into_iter().collect();
        enter_namespaces(plan, joined)?;
        let rootfs = Rootfs::build(plan, cgroup)?;
        process::make_directory(rootfs.root(), &plan.process.cwd)?;
        let terminal = open_terminal(rootfs.root(), &plan.process)?;
        if let Some(terminal) = &terminal {
            rootfs.bind_console(terminal.slave.as_fd())?;
        }
        rootfs.enter()?;
        self.connect(terminal.as_ref())?;
        let (prepared, more) = process::prepare(&mut plan.process)?;
        notes.extend(more);
        self.channel.send_ready(terminal.as_ref().map(|terminal| terminal.master.as_fd()), &notes)?;
        drop(terminal);
        self.channel.wait_for_go()?;
        prepared.finish(self.filter)
    }

    /// Becomes a further process of a container, whose `namespaces` (`CLONE_NEW*`) are those of `init`. The
    /// pid namespace was entered by the clone.
    pub(crate) fn join(
        &self,
        mut plan: ProcessPlan,
        init: BorrowedFd<'_>,
        namespaces: i32,
    ) -> Result<Infallible> {
        self.begin()?;
        let mut notes: Vec<String> = process::adjust_oom_score(plan.oom_score_adj)?.into_iter().collect();
        sys::setns(init, namespaces & !libc::CLONE_NEWPID)
            .context(|| "entering the container's namespaces")?;
        let what = || "opening the container's /";
        let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .context(what)?;
        let terminal = open_terminal(root.as_fd(), &plan)?;
        self.connect(terminal.as_ref())?;
        let (prepared, more) = process::prepare(&mut plan)?;
        notes.extend(more);
        self.channel.send_ready(terminal.as_ref().map(|terminal| terminal.master.as_fd()), &notes)?;
        drop((terminal, root));
        prepared.finish(self.filter)
    }

    fn begin(&self) -> Result<()> {
        sys::default_signals();
        umask(Mode::empty());
        self.entrance.enter_v1()
    }

    /// Standard streams and session: from the supervisor, or the terminal.
    fn connect(&self, terminal: Option<&Terminal>) -> Result<()> {
        match terminal {
            Some(terminal) => terminal.take(),
            None => {
                setsid().context(|| "starting a session")?;
                standard_streams(self.io.stdin, self.io.stdout, self.io.stderr)
            }
        }
    }
}

fn open_terminal(root: BorrowedFd<'_>, plan: &ProcessPlan) -> Result<Option<Terminal>> {
    plan.terminal.map(|size| Terminal::open(root, size, plan.uid)).transpose()
}

/// Joins and completes the namespaces that clone made.
fn enter_namespaces(plan: &Plan, joined: &[(i32, OwnedFd)]) -> Result<()> {
    for (flag, fd) in joined.iter().filter(|(flag, _)| *flag != libc::CLONE_NEWPID) {
        sys::setns(fd.as_fd(), *flag).context(|| "joining a namespace")?;
    }
    let new = plan.namespaces.new;
    if new & libc::CLONE_NEWCGROUP != 0 {
        // Only now: the group that a process is in becomes the root of what it sees.
        sys::unshare(libc::CLONE_NEWCGROUP).context(|| "making a cgroup namespace")?;
    }
    if new & libc::CLONE_NEWNET != 0 {
        let what = || "bringing up the loopback interface";
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).context(what)?;
        sys::loopback_up(socket.as_fd()).context(what)?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).context(|| format!("setting the hostname {name:?}"))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .context(|| format!("setting the domain name {name:?}"))?;
    }
    Ok(())
}
