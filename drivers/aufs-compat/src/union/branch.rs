//! One directory tree of a union.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use mica_tree::Abilities;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use super::Result;
use super::reach::open_directory;

/// File systems that show other inode numbers in a directory than `stat` does, or may (`linux/magic.h`).
const INEXACT: [u64; 4] = [0x794c_7630, 0x6573_5546, 0xf15f, 0x6175_6673];

/// What a branch is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSpec {
    /// The directory.
    pub path: PathBuf,
    /// Whether it can be written: the first one alone can.
    pub writable: bool,
    /// Whether names that begin with `.wh.` hide others (`rw`, `ro+wh`). On other branches they are only hidden themselves.
    pub whiteouts: bool,
}

/// A directory tree that a union shows.
#[derive(Debug)]
pub struct Branch {
    /// As it was given.
    pub path: PathBuf,
    /// Whether it can be written: the first one alone can.
    pub writable: bool,
    /// Whether names that begin with `.wh.` hide others (`rw`, `ro+wh`). On other branches they are only hidden themselves.
    pub whiteouts: bool,
    /// Its root, open for its path alone.
    pub(crate) root: Arc<OwnedFd>,
    /// The inode number of its root.
    pub(crate) inode: u64,
    /// The device number of its file system.
    pub(crate) device: u64,
    /// Whether a directory tells the inode numbers that the files have.
    pub(crate) exact: bool,
    /// What copying from it to the writable branch has shown.
    pub(crate) abilities: Abilities,
    /// Where it is, without links on the way.
    pub(crate) canonical: PathBuf,
}

impl Branch {
    pub(crate) fn open(spec: BranchSpec) -> Result<Self> {
        // Links in the path are followed.
        let root = open_directory(CWD, &*spec.path.join("."))?;
        let stat = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
        let magic = rustix::fs::fstatfs(&root)?.f_type as u64;
        let canonical = fs::canonicalize(&spec.path).unwrap_or_else(|_| spec.path.clone());
        Ok(Self {
            path: spec.path,
            writable: spec.writable,
            whiteouts: spec.whiteouts || spec.writable,
            root: Arc::new(root),
            inode: stat.stx_ino,
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            exact: !INEXACT.contains(&magic),
            abilities: Abilities::default(),
            canonical,
        })
    }
}
