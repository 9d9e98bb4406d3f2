//! Limits of layers by project quota.
//!
//! A file system with project quota (xfs, ext4) counts what the files of a project take, and refuses more than its
//! limit. A limited layer is a project of its own. Which ids are taken is what the file system says: an id without a
//! file is free, so none is lost when a process dies, and ids that others use are left alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mica_core::{Error, Quota, Result};
use mica_tree::{ProjectUsage, assign_project, limit_project, limits_projects, project_usage};

/// What overlayfs and this driver make in a limited layer beside its own files: `diff`, `work` and what is in `work`.
const OWN_INODES: u64 = 3;

const NOTHING: ProjectUsage = ProjectUsage { bytes: 0, inodes: 0 };

/// The file system's project quota.
#[derive(Debug)]
pub(crate) struct Quotas {
    root: File,
    lock: PathBuf,
    block: u64,
}

/// The quota that is needed for these limits, which are claimed; `None` where there are none to keep.
pub(crate) fn wanted<'a>(quotas: Option<&'a Quotas>, quota: &Quota) -> Result<Option<&'a Quotas>> {
    match quota {
        Quota { bytes: None, inodes: None } => Ok(None),
        Quota { bytes: Some(0), .. } | Quota { inodes: Some(0), .. } => {
            Err(Error::Options("a quota of 0 leaves no room for anything; name a larger one".to_owned()))
        }
        Quota { .. } => Ok(quotas),
    }
}

impl Quotas {
    /// The quota of the file system of `root`, or why there is none.
    pub(crate) fn probe(path: &Path, root: &File) -> Result<Self, String> {
        let name = mica_tree::file_system(root.as_fd()).unwrap_or_else(|_| "this file system".to_owned());
        let lacking = |error: io::Error| match error.raw_os_error() {
            Some(libc::ESRCH) => {
                format!(
                    "{name} is mounted without project quota; make it with that feature and mount it with 'prjquota'"
                )
            }
            Some(libc::ENOSYS | libc::EOPNOTSUPP) if name == "xfs" => {
                "xfs is mounted without 'prjquota', or the kernel lacks CONFIG_XFS_QUOTA".to_owned()
            }
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => {
                format!("{name} has no project quota, which xfs and ext4 have since Linux 5.14")
            }
            Some(libc::EPERM) => "limits can only be set by root, outside of user namespaces".to_owned(),
            _ => format!("the project quota of {name} cannot be read: {error}"),
        };
        project_usage(root.as_fd(), 0).map_err(lacking)?;
        if !limits_projects(root.as_fd()).map_err(lacking)? {
            return Err(format!(
                "{name} counts what projects use, but keeps no limits; mount it with 'prjquota'"
            ));
        }
        let block = root.metadata().map_err(lacking)?.blksize();
        let root = root.try_clone().map_err(lacking)?;
        Ok(Self { root, lock: path.join("quota.lock"), block })
    }

    /// The project of a file; 0 is none.
    pub(crate) fn project(&self, file: &File) -> io::Result<u32> {
        mica_tree::project(file.as_fd())
    }

    /// Makes an empty directory a project of its own, with these limits.
    pub(crate) fn limit(&self, dir: &File, quota: &Quota) -> io::Result<()> {
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.lock)?;
        // Until the directory has it, the file system does not know that the id is taken.
        lock.lock()?;
        let project = self.free_id(dir.metadata()?.ino())?;
        let limit = ProjectUsage {
            bytes: quota.bytes.map_or(0, |bytes| bytes.saturating_add(OWN_INODES * self.block)),
            inodes: quota.inodes.map_or(0, |inodes| inodes.saturating_add(OWN_INODES)),
        };
        limit_project(self.root.as_fd(), project, limit)?;
        assign_project(dir.as_fd(), project)
    }

    /// Makes a directory part of the project of another, if that has one. Overlayfs moves files between the two, and
    /// none can be moved between projects.
    pub(crate) fn join(&self, other: &File, dir: &File) -> io::Result<()> {
        match self.project(other)? {
            0 => Ok(()),
            project => assign_project(dir.as_fd(), project),
        }
    }

    /// Forgets the limits of a project that has no files any more.
    pub(crate) fn free(&self, project: u32) -> io::Result<()> {
        if project == 0 { Ok(()) } else { limit_project(self.root.as_fd(), project, NOTHING) }
    }

    /// An id that no file has, from `first` on: an inode number is one that nobody else thinks of.
    fn free_id(&self, first: u64) -> io::Result<u32> {
        // The kernel keeps the highest id, -1, for itself.
        const IDS: u64 = u32::MAX as u64 - 1;
        let mut id = (first % IDS) as u32;
        loop {
            if id != 0 && project_usage(self.root.as_fd(), id)? == NOTHING {
                return Ok(id);
            }
            id = if u64::from(id) + 1 < IDS { id + 1 } else { 1 };
        }
    }
}
