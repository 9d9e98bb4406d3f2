//! One directory tree of a union.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A directory tree that a union shows.
#[derive(Debug)]
pub struct Branch {
    /// As it was given.
    pub path: PathBuf,
    /// Its root, open for its path alone.
    pub root: OwnedFd,
    /// Whether it can be written: the first one alone can.
    pub writable: bool,
    /// Whether names that begin with `.wh.` hide others (`rw`, `ro+wh`). On other branches they are only hidden themselves.
    pub whiteouts: bool,
    /// Which of the file systems of the branches it is on: the first branch is on the file system 0.
    pub device: u8,
}
