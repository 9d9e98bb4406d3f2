//! Writes that a file system took and could not keep.

use std::os::fd::{BorrowedFd, OwnedFd};

use mica_core::{Error, MountSpec, Result};
use rustix::fs::{Mode, OFlags};

/// Learns of the writes to a tree that get lost after it was made. The kernel keeps them in memory at first, and tells of
/// a failure whoever calls syncfs(2) by a descriptor that is older than it.
#[derive(Debug, Default)]
pub(crate) struct Writes(Vec<OwnedFd>);

impl Writes {
    /// Learns of those to this mount, too, if it is a writable file system of its own.
    pub(crate) fn watch(&mut self, spec: &MountSpec, root: BorrowedFd<'_>) -> Result<()> {
        if matches!(spec, MountSpec::Fs(fs) if !fs.read_only) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(root, ".", flags, Mode::empty());
            self.0.push(opened.map_err(|e| Error::io(|| "open a mounted file system")(e.into()))?);
        }
        Ok(())
    }

    /// Waits until none is in memory, and fails where one is lost.
    pub(crate) fn finish(self) -> Result<()> {
        let done = self.0.iter().map(|fs| {
            let doing = || "write what a mounted file system still has in memory";
            rustix::fs::syncfs(fs).map_err(|e| Error::io(doing)(e.into()))
        });
        done.fold(Ok(()), Result::and)
    }
}
