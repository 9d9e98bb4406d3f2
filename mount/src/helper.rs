//! A file system that a process serves through FUSE.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mica_core::mount::Helper;
use mica_core::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{self, MountAttrFlags, MountFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::context::Context;
use crate::error::failed;
use crate::sys;

/// How long to wait for a helper that has nothing left to serve, when somebody wants to know, and when nobody does.
const PATIENCE: Duration = Duration::from_secs(10);
const LITTLE_PATIENCE: Duration = Duration::from_secs(1);

/// The mount, detached, and the process that serves it.
pub(crate) fn open(helper: &Helper, command: &[OsString]) -> Result<(OwnedFd, Server)> {
    let channel = channel()?;
    let context = Context::open("fuse", doing(helper))?;
    context.string("source", helper.driver.as_str())?;
    context.string("fd", channel.as_raw_fd().to_string())?;
    for (name, value) in OWNER {
        context.string(name, value)?;
    }
    for name in ACCESS {
        context.flag(name)?;
    }
    context.check(context.create())?;
    let attributes =
        if helper.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let tree = context.mount(attributes)?;
    Ok((tree, Server::start(helper, command, &channel)?))
}

/// Mounts it by `mount(2)`.
pub(crate) fn classic(helper: &Helper, command: &[OsString], at: &Path) -> Result<Server> {
    let channel = channel()?;
    let owner = OWNER.map(|(name, value)| format!("{name}={value}")).join(",");
    let options = format!("fd={},{owner},{}", channel.as_raw_fd(), ACCESS.join(","));
    let flags = if helper.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    mount::mount(helper.driver.as_str(), at, "fuse", flags, crate::fs::text(&options)?.as_c_str())
        .map_err(|e| failed(doing(helper), e, ""))?;
    Server::start(helper, command, &channel).inspect_err(|_| {
        let _ = mount::unmount(at, mount::UnmountFlags::DETACH);
    })
}

/// The root is a directory (octal 040000), the mount root's.
const OWNER: [(&str, &str); 3] = [("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")];

/// The kernel checks permissions by mode and owner, and lets every user in, as in any root file system.
const ACCESS: [&str; 2] = ["default_permissions", "allow_other"];

/// A connection that has no mount yet.
fn channel() -> Result<OwnedFd> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
            Error::Unavailable { reason: "there is no /dev/fuse; load the module 'fuse'".to_owned() }
        }
        other => failed("open '/dev/fuse'", other, ""),
    })
}

/// The process that serves a mount.
#[derive(Debug)]
pub(crate) struct Server(Option<Child>);

impl Server {
    fn start(helper: &Helper, command: &[OsString], channel: &OwnedFd) -> Result<Self> {
        let Some((program, args)) = command.split_first() else {
            return Err(Error::driver(doing(helper), "no command was given that starts a helper"));
        };
        let mut command = Command::new(program);
        command.args(args).arg(&helper.driver).args(&helper.args).stdin(Stdio::null()).stdout(Stdio::null());
        sys::pass_as_descriptor_3(&mut command, channel.as_fd());
        let child = command.spawn().map_err(Error::io(|| format!("start '{}'", program.display())))?;
        Ok(Self(Some(child)))
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.0.as_ref().map(Child::id)
    }

    /// Leaves the process to itself and to whoever reaps it.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }

    /// Waits for the process, whose mount is gone, and reports how it ended.
    pub(crate) fn close(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |child| end(child, PATIENCE))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.take().map(|child| end(child, LITTLE_PATIENCE));
    }
}

fn end(mut child: Child, patience: Duration) -> Result<()> {
    let pid = child.id();
    if !has_ended(&child, patience) {
        let why = "it still serves, so something still uses its mount";
        return Err(Error::driver(format!("end the file system of process {pid}"), why));
    }
    match child.wait() {
        Ok(status) if !status.success() => {
            Err(Error::driver(format!("serve a file system by process {pid}"), status.to_string()))
        }
        // Also when somebody who reaps every child was faster.
        _ => Ok(()),
    }
}

/// Waits for the end of a child, but not for ever.
fn has_ended(child: &Child, patience: Duration) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) else {
        return true;
    };
    let mut waiting = [PollFd::new(&pidfd, PollFlags::IN)];
    let patience = rustix::event::Timespec::try_from(patience).ok();
    !matches!(rustix::event::poll(&mut waiting, patience.as_ref()), Ok(0))
}

fn doing(helper: &Helper) -> String {
    format!("mount the file system of driver '{}'", helper.driver)
}
