//! The quota of a layer: its file system's own, on the one project that every file of it is in.
//!
//! All files of all layers are in project 1, since the root of the base volume hands it down. So what a layer may take
//! beyond its parent is what project 1 takes already and the quota.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mica_core::Quota;
use mica_tree::{ProjectUsage, assign_project, limit_project, limits_projects, project_usage};

const PROJECT: u32 = 1;

/// Why there is none.
pub(crate) const LACKING: &str = "the kernel keeps no project quota on the layers' file system";

/// Has everything that is made in an empty file system be counted.
pub(crate) fn prepare(root: &OwnedFd) -> io::Result<()> {
    if !limits_projects(root.as_fd())? {
        return Err(io::ErrorKind::Unsupported.into());
    }
    assign_project(root.as_fd(), PROJECT)
}

/// What a file system is to be able to hold for a quota of bytes, with a margin for what it keeps of its own.
pub(crate) fn size_for(root: &OwnedFd, bytes: u64) -> io::Result<u64> {
    let used = project_usage(root.as_fd(), PROJECT)?.bytes;
    let content = used.saturating_add(bytes);
    Ok(content.saturating_add(content / 8).saturating_add(64 << 20))
}

/// Limits what is made from here on; with a quota of nothing, takes limits away.
pub(crate) fn limit(root: &OwnedFd, quota: &Quota) -> io::Result<()> {
    let used = project_usage(root.as_fd(), PROJECT)?;
    let beyond = |used: u64, more: Option<u64>| more.map_or(0, |more| used.saturating_add(more));
    let limit =
        ProjectUsage { bytes: beyond(used.bytes, quota.bytes), inodes: beyond(used.inodes, quota.inodes) };
    limit_project(root.as_fd(), PROJECT, limit)
}
