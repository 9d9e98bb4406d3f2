//! The container's view of the file system, built in the child, in its own mount namespace.

mod devices;
mod mounts;
mod paths;
pub(crate) mod resolve;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::cgroup::Cgroup;
use crate::error::{Context, Result};
use crate::plan::{Plan, Propagation};
use crate::sys::{self, MountAttr};

/// A root file system under construction; the host is still at `/`.
#[derive(Debug)]
pub(crate) struct Rootfs<'a> {
    plan: &'a Plan,
    root: OwnedFd,
    /// The proc file system that was mounted at `/proc`, if one was.
    proc: Option<OwnedFd>,
}

impl<'a> Rootfs<'a> {
    /// Builds everything below the root of `plan`. The caller has just entered a new mount namespace.
    pub(crate) fn build(plan: &'a Plan, cgroup: &Cgroup) -> Result<Self> {
        let host = plan.propagation.unwrap_or(Propagation { flag: libc::MS_SLAVE, recursive: true });
        change_root(host).context(|| "making the mounts of the host private")?;
        let mut rootfs = Self { plan, root: mount_root(&plan.root)?, proc: None };
        for mount in &plan.mounts {
            rootfs.mount(mount, cgroup)?;
        }
        rootfs.make_devices()?;
        rootfs.write_sysctls()?;
        rootfs.protect_paths()?;
        Ok(rootfs)
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes it `/` and lets go of the host's file systems.
    pub(crate) fn enter(self) -> Result<()> {
        let open = || openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(|| "opening /");
        let host = open()?;
        fchdir(&self.root).context(|| "entering the root file system")?;
        // pivot_root(2), "pivot_root(".", ".")": the old root lands on top of the new one, from where it is
        // detached.
        pivot_root(".", ".").context(|| "making the root file system /")?;
        if self.plan.propagation.is_some() {
            let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
            sys::mount_setattr(host.as_fd(), true, slave)
                .context(|| "keeping the host's file systems mounted")?;
        }
        unmount(".", UnmountFlags::DETACH).context(|| "detaching the host's file systems")?;
        chdir("/").context(|| "entering /")?;
        if let Some(propagation) = self.plan.propagation {
            change_root(propagation).context(|| "setting the propagation of /")?;
        }
        if self.plan.root_readonly {
            let root =
                openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).context(|| "opening /")?;
            let readonly = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
            sys::mount_setattr(root.as_fd(), false, readonly).context(|| "making / read-only")?;
        }
        Ok(())
    }

    /// Through the very mount that was made, so that no link of the image can point elsewhere
    /// (CVE-2025-52881).
    fn write_sysctls(&self) -> Result<()> {
        for (path, value) in &self.plan.sysctls {
            let what = || format!("setting sysctl {} to {value:?}", path.replace('/', "."));
            let proc = self.proc.as_ref().ok_or(rustix::io::Errno::NOENT).context(what)?;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let path = Path::new("sys").join(path);
            let file = openat2(proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
                .context(what)?;
            rustix::io::write(&file, value.as_bytes()).context(what)?;
        }
        Ok(())
    }
}

fn change_root(propagation: Propagation) -> rustix::io::Result<()> {
    let recursive = if propagation.recursive { libc::MS_REC } else { 0 };
    mount_change("/", MountPropagationFlags::from_bits_retain((propagation.flag | recursive) as u32))
}

/// A mount of its own, which pivot_root demands, whatever `path` is.
fn mount_root(path: &Path) -> Result<OwnedFd> {
    let what = || format!("opening the root file system {}", path.display());
    let root = clone_tree(CWD, path, true).context(what)?;
    let below =
        openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    attach(root.as_fd(), below.as_fd()).context(what)?;
    // A shared root could not be pivoted to, and nothing of the container is to reach the host.
    let private = MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), false, private).context(what)?;
    Ok(root)
}

/// A detached copy of a tree of mounts.
pub(crate) fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

/// Mounts what `clone_tree` or `fsmount` returned on the file or directory behind `target`.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}
