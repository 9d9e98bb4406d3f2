//! The mounts that the bundle lists.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::resolve::{self, Missing};
use super::{Rootfs, attach, clone_tree};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::plan::{Attributes, Filesystem, Kind, MountPlan};
use crate::sys::{self, MountAttr};

/// Files of `/proc` that may be covered by a bind mount, as lxcfs does; anything else there could hide what
/// the runtime or the kernel's security modules read and write (CVE-2019-16884).
const COVERABLE: [&str; 8] =
    ["cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime"];

impl Rootfs<'_> {
    pub(super) fn mount(&mut self, mount: &MountPlan, cgroup: &Cgroup) -> Result<()> {
        let what = || format!("mounting {}", mount.target.display());
        match &mount.kind {
            Kind::Filesystem(filesystem) => self.mount_filesystem(mount, filesystem),
            Kind::Cgroup => self.mount_cgroup(mount, cgroup),
            Kind::Bind { source, recursive } => {
                refuse_in_proc(&mount.target)?;
                let what = || format!("{} from {}", what(), source.display());
                let tree = clone_tree(CWD, source, *recursive).context(what)?;
                set_attributes(tree.as_fd(), &mount.attributes).context(what)?;
                let directory = resolve::file_type(tree.as_fd()).context(what)? == FileType::Directory;
                let missing = if directory { Missing::Directory } else { Missing::File };
                let target = resolve::open_or_make(self.root(), &mount.target, missing).context(what)?;
                attach(tree.as_fd(), target.as_fd()).context(what)
            }
        }
    }

    fn mount_filesystem(&mut self, mount: &MountPlan, filesystem: &Filesystem) -> Result<()> {
        let what = || format!("mounting {} on {}", filesystem.fstype, mount.target.display());
        let proc = filesystem.fstype == "proc";
        let target = if proc || filesystem.fstype == "sysfs" {
            ordinary_directory(self.root(), &mount.target)
        } else {
            refuse_in_proc(&mount.target)?;
            resolve::open_or_make(self.root(), &mount.target, Missing::Directory)
        };
        let target = target.context(what)?;
        let made = new_filesystem(filesystem, mount.attributes.top.set).context(what)?;
        let rest = Attributes { top: MountAttr::default(), ..mount.attributes.clone() };
        set_attributes(made.as_fd(), &rest).context(what)?;
        attach(made.as_fd(), target.as_fd()).context(what)?;
        if proc && mount.target == Path::new("/proc") {
            self.proc = Some(made);
        }
        Ok(())
    }

    /// On v2 the container's own group; on v1 a tmpfs with one directory for each hierarchy.
    fn mount_cgroup(&self, mount: &MountPlan, cgroup: &Cgroup) -> Result<()> {
        let what = || format!("mounting the control groups on {}", mount.target.display());
        let place = |name: &Path, group: &Path, at: BorrowedFd<'_>| -> Result<()> {
            let tree = clone_tree(CWD, group, false).context(what)?;
            set_attributes(tree.as_fd(), &mount.attributes).context(what)?;
            let target = match name.as_os_str().is_empty() {
                true => rustix::io::dup(at),
                false => resolve::open_or_make(at, name, Missing::Directory),
            };
            attach(tree.as_fd(), target.context(what)?.as_fd()).context(what)
        };
        let target = resolve::open_or_make(self.root(), &mount.target, Missing::Directory).context(what)?;
        if let Some(group) = cgroup.unified_only() {
            return place(Path::new(""), group, target.as_fd());
        }
        let options = ["mode=755".to_owned()];
        let tmpfs =
            Filesystem { fstype: "tmpfs".into(), source: Some("tmpfs".into()), options: options.into() };
        let attributes = mount.attributes.top.set & !libc::MOUNT_ATTR_RDONLY;
        let made = new_filesystem(&tmpfs, attributes).context(what)?;
        attach(made.as_fd(), target.as_fd()).context(what)?;
        for (name, group) in cgroup.directories() {
            place(Path::new(name), group, made.as_fd())?;
        }
        for (link, name) in cgroup.aliases() {
            rustix::fs::symlinkat(name, &made, link).context(what)?;
        }
        set_attributes(made.as_fd(), &mount.attributes).context(what)
    }
}

/// A directory of the image that is reached without any link: a link there would put the kernel's file system
/// where the image wants it and leave its own files at `/proc` (CVE-2019-19921, CVE-2023-27561).
fn ordinary_directory(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) if path.components().count() == 1 => {
            mkdirat(root, path, Mode::from_raw_mode(0o755))?;
            openat2(root, path, flags, Mode::empty(), resolve)
        }
        answer => answer,
    }
}

fn refuse_in_proc(target: &Path) -> Result<()> {
    let Ok(below) = target.strip_prefix("/proc") else { return Ok(()) };
    if COVERABLE.iter().any(|name| below == Path::new(name)) {
        return Ok(());
    }
    Err(Error::spec(format!("{} cannot be covered by a mount: /proc is the kernel's", target.display())))
}

/// A detached mount of a new file system instance.
pub(super) fn new_filesystem(filesystem: &Filesystem, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(filesystem.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    let source = filesystem.source.as_deref().unwrap_or(Path::new(&filesystem.fstype));
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for option in &filesystem.options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), option.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// While the tree is detached, so that it is never visible with less protection than asked for.
fn set_attributes(tree: BorrowedFd<'_>, attributes: &Attributes) -> std::io::Result<()> {
    for (attr, recursive) in [(attributes.top, false), (attributes.tree, true)] {
        if attr != MountAttr::default() {
            sys::mount_setattr(tree, recursive, attr)?;
        }
    }
    for propagation in &attributes.propagation {
        let attr = MountAttr { propagation: propagation.flag, ..MountAttr::default() };
        sys::mount_setattr(tree, propagation.recursive, attr)?;
    }
    Ok(())
}
