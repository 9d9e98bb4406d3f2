//! A file system that a process serves through FUSE.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use mica_core::mount::Helper;
use mica_core::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{self, MountAttrFlags, MountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::context::Context;
use crate::error::failed;
use crate::fs;
use crate::scratch::open_dir;
use crate::sys::{self, Apart};

/// How long to wait for a helper that has nothing left to serve, when somebody wants to know, and when nobody does.
const PATIENCE: Duration = Duration::from_secs(10);
const LITTLE_PATIENCE: Duration = Duration::from_secs(1);

/// How helpers are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    /// What comes before the driver's name and the helper's arguments.
    pub(crate) command: Vec<OsString>,
    /// What the mount table shows, instead of the driver's name.
    pub(crate) source: Option<OsString>,
    /// Out of this process's mount namespace.
    pub(crate) apart: bool,
}

impl Start {
    fn source<'a>(&'a self, helper: &'a Helper) -> &'a OsStr {
        self.source.as_deref().unwrap_or(helper.driver.as_ref())
    }
}

/// The mount, detached, and the process that serves it.
pub(crate) fn open(helper: &Helper, how: &Start) -> Result<(OwnedFd, Server)> {
    let channel = channel()?;
    let context = Context::open("fuse", doing(helper))?;
    context.string("source", how.source(helper))?;
    context.string("subtype", helper.driver.as_str())?;
    context.string("fd", channel.as_raw_fd().to_string())?;
    for (name, value) in VALUES {
        context.string(name, value)?;
    }
    for name in ACCESS {
        context.flag(name)?;
    }
    if let Some(label) = &helper.label {
        context.string("context", label.as_str())?;
    }
    context.check(context.create())?;
    let attributes =
        if helper.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() };
    let tree = context.mount(attributes)?;
    let server = Server::start(helper, how, channel, None)?;
    if server.answers(tree.as_fd()) {
        read_ahead(tree.as_fd());
        return Ok((tree, server));
    }
    drop(tree);
    Err(server.refused(helper))
}

/// Mounts it by `mount(2)`.
pub(crate) fn classic(helper: &Helper, how: &Start, at: &Path) -> Result<Server> {
    let channel = channel()?;
    let mut options = format!("fd={},{}", channel.as_raw_fd(), ACCESS.join(","));
    for (name, value) in VALUES {
        options.push_str(&format!(",{name}={value}"));
    }
    if let Some(label) = &helper.label {
        options = format!("{options},{}", fs::label(label));
    }
    let flags = if helper.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let fstype = format!("fuse.{}", helper.driver);
    mount::mount(how.source(helper), at, fstype, flags, fs::text(&options)?.as_c_str())
        .map_err(|e| failed(doing(helper), e, ""))?;
    let started = CString::new(at.as_os_str().as_bytes())
        .map_err(|e| Error::driver(doing(helper), e))
        .and_then(|place| Server::start(helper, how, channel, Some(place)))
        .and_then(|server| Ok((open_dir(CWD, at)?, server)));
    let refused = match started {
        Ok((root, server)) if server.answers(root.as_fd()) => {
            read_ahead(root.as_fd());
            return Ok(server);
        }
        Ok((_, server)) => server.refused(helper),
        Err(error) => error,
    };
    let _ = mount::unmount(at, UnmountFlags::DETACH);
    Err(refused)
}

/// The root is a directory (octal 040000), the mount root's. Without `max_read` a direct read asks for as much as its
/// buffer holds, and a helper has room for a megabyte, the most that the kernel sends it to write.
const VALUES: [(&str, &str); 4] =
    [("rootmode", "40000"), ("user_id", "0"), ("group_id", "0"), ("max_read", "1048576")];

/// The kernel checks permissions by mode and owner, and lets every user in, as in any root file system.
const ACCESS: [&str; 2] = ["default_permissions", "allow_other"];

/// Has the kernel read four times as far ahead in a file of a mount as it does by itself: a request costs as much as the copying
/// of what it brings. No further, so that the answer fits in a pipe of the size that everybody may have (1 MiB, pipe(7)). Where
/// `/sys` is not there to be written to, reading costs more, and works.
fn read_ahead(root: BorrowedFd<'_>) {
    let known = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    if let Ok(stat) = rustix::fs::statx(root, "", known, StatxFlags::empty()) {
        let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
        let _costs_more = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), "512");
    }
}

/// A connection that has no mount yet.
fn channel() -> Result<OwnedFd> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| match e {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            Error::Unavailable { reason: "there is no /dev/fuse; load the module 'fuse'".to_owned() }
        }
        other => failed("open '/dev/fuse'", other, ""),
    })
}

/// The process that serves a mount.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    /// Tells of the end of this very process, also when somebody else has reaped it.
    pidfd: OwnedFd,
    /// What it writes to its standard error: a file in memory, which it can fill without anybody reading.
    said: File,
}

impl Server {
    fn start(helper: &Helper, how: &Start, channel: OwnedFd, place: Option<CString>) -> Result<Self> {
        let Some((program, args)) = how.command.split_first() else {
            return Err(Error::driver(doing(helper), "no command was given that starts a helper"));
        };
        let starting = || format!("start '{}'", program.display());
        let said = rustix::fs::memfd_create("mica-helper", MemfdFlags::CLOEXEC);
        let said = File::from(said.map_err(|e| Error::io(starting)(e.into()))?);
        let stderr = said.try_clone().map_err(Error::io(starting))?;
        let mut command = Command::new(program);
        command.args(args).arg(&helper.driver).args(&helper.args).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let apart = how.apart.then_some(Apart { without: place });
        sys::start_as_helper(&mut command, channel.as_fd(), apart);
        let child = command.spawn().map_err(Error::io(starting))?;
        // The kernel tells of a helper's end once nobody else has the connection.
        drop(channel);
        let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let pidfd = pidfd.map_err(|e| Error::io(starting)(e.into()))?;
        Ok(Self { child: Some(child), pidfd, said })
    }

    /// Waits until the mount, of which `root` is the root, is served: the kernel lets nothing through before the first
    /// answer, and fails everything once nobody has the connection open.
    fn answers(&self, root: BorrowedFd<'_>) -> bool {
        let asked = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(root));
        !matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::CONNREFUSED))
    }

    /// Why it does not serve.
    fn refused(self, helper: &Helper) -> Error {
        match self.close() {
            Err(Error::Driver { source, .. }) => Error::Driver { doing: doing(helper), source },
            Err(error) => error,
            Ok(()) => Error::driver(doing(helper), "its helper ended before it served anything"),
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The end of what it wrote to its standard error.
    pub(crate) fn said(&self) -> String {
        const MOST: u64 = 4096;
        let length = self.said.metadata().map_or(0, |file| file.len());
        let mut text = vec![0; length.min(MOST) as usize];
        let read = self.said.read_at(&mut text, length.saturating_sub(MOST)).unwrap_or(0);
        String::from_utf8_lossy(&text[..read]).trim().to_owned()
    }

    /// Leaves the process to itself and to whoever reaps it.
    pub(crate) fn leave(mut self) {
        self.child = None;
    }

    /// Waits for the process, whose mount is gone, and reports how it ended.
    pub(crate) fn close(mut self) -> Result<()> {
        self.end(PATIENCE)
    }

    fn end(&mut self, patience: Duration) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = child.id();
        if !self.has_ended(patience) {
            let why = "it still serves, so something still uses its mount";
            return Err(Error::driver(format!("end the file system of process {pid}"), why));
        }
        match child.wait() {
            Ok(status) if !status.success() => {
                Err(Error::driver(format!("serve a file system by process {pid}"), self.why(status)))
            }
            // Also when somebody who reaps every child was faster.
            _ => Ok(()),
        }
    }

    fn why(&self, status: ExitStatus) -> String {
        match self.said() {
            said if said.is_empty() => status.to_string(),
            said => format!("{said} ({status})"),
        }
    }

    /// Waits for the end of the process, but not for ever.
    fn has_ended(&self, patience: Duration) -> bool {
        let mut waiting = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let patience = rustix::event::Timespec::try_from(patience).ok();
        !matches!(rustix::event::poll(&mut waiting, patience.as_ref()), Ok(0))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end(LITTLE_PATIENCE);
    }
}

/// Whether the kernel lets a helper hand over whole files, so that reading and writing them goes past it (Linux 6.9 with
/// `CONFIG_FUSE_PASSTHROUGH`): what it offers to a file system that nobody sees.
pub fn fuse_passthrough() -> Result<bool> {
    // In the first request, `struct fuse_init_in` of `linux/fuse.h` begins after the header, and the upper half of the
    // flags after four words.
    const FLAGS: usize = 40 + 16;
    const PASSTHROUGH: u32 = 1 << 5;
    let channel = channel()?;
    let context = Context::open("fuse", "ask what FUSE offers".to_owned())?;
    context.string("fd", channel.as_raw_fd().to_string())?;
    for (name, value) in VALUES {
        context.string(name, value)?;
    }
    context.check(context.create())?;
    // The least room that the kernel takes.
    let mut request = [0; 8192];
    let length = context.check(rustix::io::read(&channel, &mut request))?;
    let flags = request[..length].get(FLAGS..FLAGS + 4).and_then(|bytes| bytes.try_into().ok());
    Ok(flags.map_or(0, u32::from_ne_bytes) & PASSTHROUGH != 0)
}

fn doing(helper: &Helper) -> String {
    format!("mount the file system of driver '{}'", helper.driver)
}
