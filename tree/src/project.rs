//! Project quota: a file system (xfs, ext4) counts what the files of a project take, and refuses more than its limit.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::{self, INHERIT};

/// What a project takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// The project of a file; 0 is none.
pub fn project(file: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(sys::attributes(file)?.project)
}

/// Puts a directory, and what is made in it from now on, into a project.
pub fn assign_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = sys::attributes(dir)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    sys::set_attributes(dir, attributes)
}

/// What a project takes on the file system of `file`. Fails with `ESRCH` where that counts no projects.
pub fn project_usage(file: BorrowedFd<'_>, project: u32) -> io::Result<ProjectUsage> {
    let record = sys::record(file, project)?;
    Ok(ProjectUsage { bytes: record.dqb_curspace, inodes: record.dqb_curinodes })
}

/// Whether the file system keeps limits of projects, and does not only count.
pub fn limits_projects(file: BorrowedFd<'_>) -> io::Result<bool> {
    sys::enforced(file)
}

/// Limits what a project may take in all, rounded up to units of 1024 bytes; 0 is no limit.
pub fn limit_project(file: BorrowedFd<'_>, project: u32, limit: ProjectUsage) -> io::Result<()> {
    sys::set_limits(file, project, limit.bytes.div_ceil(1024), limit.inodes)
}
