//! Paths that are hidden from the container, and paths that it may only read.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::mounts::new_filesystem;
use super::{Rootfs, attach, clone_tree, resolve};
use crate::error::{Context, Result};
use crate::plan::Filesystem;
use crate::sys::{self, MountAttr};

const READONLY: MountAttr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

impl Rootfs<'_> {
    /// Paths that do not exist need no protection and are skipped.
    pub(super) fn protect_paths(&self) -> Result<()> {
        for path in &self.plan.readonly {
            let what = || format!("making {path} read-only");
            if let Some(target) = self.existing(path).context(what)? {
                let tree = clone_tree(&target, Path::new(""), true).context(what)?;
                sys::mount_setattr(tree.as_fd(), false, READONLY).context(what)?;
                attach(tree.as_fd(), target.as_fd()).context(what)?;
            }
        }
        let mut covers = Covers::default();
        for path in &self.plan.masked {
            let what = || format!("masking {path}");
            if let Some(target) = self.existing(path).context(what)? {
                let directory = resolve::file_type(target.as_fd()).context(what)? == FileType::Directory;
                let cover = if directory { covers.empty_directory() } else { covers.null(self)? };
                attach(cover.context(what)?.as_fd(), target.as_fd()).context(what)?;
            }
        }
        Ok(())
    }

    fn existing(&self, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
        match resolve::open_path(self.root(), Path::new(path)) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            answer => answer.map(Some),
        }
    }
}

/// What covers masked paths, found or made when first needed.
#[derive(Default)]
struct Covers {
    null: Option<OwnedFd>,
    directory: Option<OwnedFd>,
}

impl Covers {
    fn null(&mut self, rootfs: &Rootfs<'_>) -> Result<rustix::io::Result<OwnedFd>> {
        let null = match self.null.take() {
            Some(null) => null,
            None => rootfs.null()?,
        };
        Ok(clone_tree(self.null.insert(null), Path::new(""), false))
    }

    /// One empty file system serves every directory: the first is covered by it, the others by clones of that
    /// mount (a mount can be cloned once it is attached).
    fn empty_directory(&mut self) -> rustix::io::Result<OwnedFd> {
        if let Some(first) = &self.directory {
            return clone_tree(first, Path::new(""), false);
        }
        let options = vec!["ro".to_owned()];
        let tmpfs = Filesystem { fstype: "tmpfs".into(), source: Some("tmpfs".into()), options };
        let made = new_filesystem(&tmpfs, libc::MOUNT_ATTR_RDONLY)?;
        self.directory = Some(rustix::io::dup(&made)?);
        Ok(made)
    }
}
