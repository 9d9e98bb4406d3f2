//! A directory that shows up as it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mica_core::Result;
use mica_core::mount::{Bind, IdMap};
use rustix::fs::CWD;
use rustix::mount::{self, MountFlags, OpenTreeFlags};

use crate::error::failed;
use crate::idmap;
use crate::sys::{self, Attributes};

/// The mount, detached.
pub(crate) fn open(bind: &Bind) -> Result<OwnedFd> {
    let tree = clone(&bind.source, bind.id_map.as_ref())?;
    if bind.read_only {
        let attributes = Attributes { attr_set: libc::MOUNT_ATTR_RDONLY, ..sys::UNCHANGED };
        sys::mount_setattr(tree.as_fd(), false, &attributes).map_err(|e| failed(doing(bind), e, ""))?;
    }
    Ok(tree)
}

/// A detached mount of one directory, without what is mounted below it.
pub(crate) fn clone(source: &Path, map: Option<&IdMap>) -> Result<OwnedFd> {
    let doing = || format!("mount directory '{}'", source.display());
    let tree =
        mount::open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|e| failed(doing(), e, ""))?;
    make_private(tree.as_fd(), &doing())?;
    if let Some(map) = map {
        idmap::shift(tree.as_fd(), map, &doing())?;
    }
    Ok(tree)
}

/// A clone is born into the peer group of its source; as a peer, what is mounted below it would show up there.
pub(crate) fn make_private(tree: BorrowedFd<'_>, doing: &str) -> Result<()> {
    let attributes = Attributes { propagation: libc::MS_PRIVATE, ..sys::UNCHANGED };
    sys::mount_setattr(tree, true, &attributes).map_err(|e| failed(doing, e, ""))
}

/// Mounts it by `mount(2)`, writable for now.
pub(crate) fn classic(bind: &Bind, at: &Path) -> Result<()> {
    mount::mount_bind(&bind.source, at).map_err(|e| failed(doing(bind), e, ""))
}

/// Makes a mount read-only that `mount(2)` made.
pub(crate) fn freeze(bind: &Bind, at: &Path) -> Result<()> {
    // A user namespace may not clear what its parent set, so a change names all that is to stay (mount_namespaces(7)).
    let kept = rustix::fs::statvfs(at).map(|stat| stat.f_flag).map_err(|e| failed(doing(bind), e, ""))?;
    let kept = MountFlags::from_bits_truncate(kept.bits() as u32) & LOCKED;
    mount::mount_remount(at, MountFlags::BIND | MountFlags::RDONLY | kept, c"")
        .map_err(|e| failed(doing(bind), e, ""))
}

const LOCKED: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NOATIME)
    .union(MountFlags::NODIRATIME);

fn doing(bind: &Bind) -> String {
    format!("mount directory '{}'", bind.source.display())
}
