//! The union of branches, as a file system.
//!
//! The first branch may be written; what lies below it never is. Directories of the same name are shown as one, and of
//! everything else the topmost is shown. What is deleted below is hidden by a whiteout above (see [`name`]). A file of a
//! lower branch that is written is copied up first.
//!
//! Nobody else writes to the branches while they are mounted, so what was read of them once stays true, and the kernel may
//! keep it for as long as it likes.
//!
//! # Locks
//!
//! In this order, each held for as short as can be:
//!
//! 1. `Node::content` of one file, while it is copied up or its open files change: whoever else wants that file waits.
//! 2. `Union::moving`, for a rename of a directory, or from one directory to another: whoever locks two directories of
//!    which neither is above the other holds it, so there is never but one of them.
//! 3. `Node::entries`: a directory before what is below it.
//! 4. Leaves, during which no other lock is taken and no call blocks: `Node::place`, the table of nodes, the directories
//!    that are open, the numbers, the pseudo-links.
//!
//! So a file is copied without any directory being locked, and is put in its place under the lock of its parent, after a
//! look whether that is still its place.
//!
//! # Crashes
//!
//! Whatever stops the process between two system calls, the next mount shows the tree as it was before or after the change
//! that was being made: a file is whole before it has its name, has its name before its whiteout is dropped, and is
//! hidden before it is deleted.

mod attributes;
pub mod branch;
mod content;
mod copy_up;
mod create;
mod flush;
mod handle;
mod io;
mod link;
mod load;
mod lookup;
mod merge;
pub mod name;
mod names;
pub mod node;
mod number;
mod parents;
mod passthrough;
mod protocol;
mod pseudo_link;
mod publish;
mod reach;
mod readdir;
mod recent;
mod remove;
mod rename;
mod start;
mod table;
#[cfg(test)]
mod tests;
mod whiteout;
mod xattr;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::StatVfs;
use rustix::io::Errno;

use crate::session::Connection;
use branch::Branch;
use content::Opened;
use handle::Handles;
use names::Budget;
use node::Node;
use number::Numbers;
use pseudo_link::PseudoLinks;
use readdir::Listing;
use recent::Recent;
use table::Table;
use whiteout::Whiteouts;

pub use create::{Made, New, Owner};
pub use lookup::Found;

/// What the kernel is told of a failure is a number.
pub type Result<T, E = Errno> = std::result::Result<T, E>;

/// How a union behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Nothing is brought to the disk before it is shown: all is thrown away after a crash.
    pub volatile: bool,
    /// Descriptors that were open when a file of a lower branch was first written keep the old data, as overlayfs's do.
    pub stale_reads: bool,
}

/// Open directories of branches, by the number of the node and the branch.
type OpenDirectories = Mutex<Recent<(u64, u16), Arc<OwnedFd>>>;

/// A union of branches.
#[derive(Debug)]
pub struct Union {
    /// The topmost first. If any can be written, the first can, and no other.
    pub(crate) branches: Vec<Branch>,
    pub(crate) options: Options,
    pub(crate) root: Arc<Node>,
    pub(crate) table: Arc<Table>,
    pub(crate) numbers: Numbers,
    budget: Arc<Budget>,
    /// In parts, so that threads seldom meet.
    open_directories: Vec<OpenDirectories>,
    /// Held while a directory gets another name, or anything another directory, so that who is above whom stands still.
    moving: Mutex<()>,
    /// These there are if a branch can be written.
    orphans: Option<Arc<OwnedFd>>,
    pseudo_links: Option<PseudoLinks>,
    whiteouts: Option<Whiteouts>,
    /// Files that the kernel has open.
    files: Handles<Arc<Opened>>,
    /// Directories that it has open.
    listings: Handles<Arc<Listing>>,
    /// From when on there is one.
    connection: OnceLock<Arc<Connection>>,
}

impl Union {
    /// Whether this branch can be written.
    pub(crate) fn is_writable(&self, branch: u16) -> bool {
        branch == 0 && self.branches.first().is_some_and(|first| first.writable)
    }

    /// The topmost branch that a node is on.
    pub(crate) fn branch_of(&self, node: &Node) -> u16 {
        node.place().branch
    }

    /// Whether a node is on the writable branch.
    pub(crate) fn is_upper(&self, node: &Node) -> bool {
        self.is_writable(self.branch_of(node))
    }

    /// The directory on the writable branch for what has no name yet, or not any more; none where nothing can be written.
    pub(crate) fn orphans(&self) -> Option<BorrowedFd<'_>> {
        self.orphans.as_deref().map(AsFd::as_fd)
    }

    /// A descriptor of the file of a node, for its path alone.
    pub(crate) fn pin(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        Ok(Arc::new(self.open_path(node)?.0))
    }

    /// What there is of the file system of the topmost branch. Names can be 242 bytes long.
    pub fn statfs(&self) -> Result<StatVfs> {
        let top = self.branches.first().ok_or(Errno::STALE)?;
        let mut stat = rustix::fs::fstatvfs(&top.root)?;
        stat.f_namemax = name::LONGEST as u64;
        Ok(stat)
    }

    fn branch(&self, branch: u16) -> Result<&Branch> {
        self.branches.get(usize::from(branch)).ok_or(Errno::STALE)
    }

    fn open_directories(&self, number: u64) -> &OpenDirectories {
        &self.open_directories[(number % self.open_directories.len() as u64) as usize]
    }

    fn whiteouts(&self) -> Result<&Whiteouts> {
        self.whiteouts.as_ref().ok_or(Errno::ROFS)
    }

    fn pseudo_links(&self) -> Result<&PseudoLinks> {
        self.pseudo_links.as_ref().ok_or(Errno::ROFS)
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        self.table.release();
    }
}

/// Locks, also after somebody panicked: no lock is held over anything that leaves its content half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
