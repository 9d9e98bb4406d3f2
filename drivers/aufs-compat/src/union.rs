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
//! 1. [`Node::content`] of one file, while it is copied up or its open files change: whoever else wants that file waits.
//! 2. The moving of directories, [`Union::moving`], for a rename from one directory to another.
//! 3. [`Node::directory`]: a parent before its child; two that are not, by their number.
//! 4. Leaves, during which no other lock is taken and no call blocks: [`Node::place`], the table of nodes, the directories
//!    that are open, the numbers.
//!
//! So a file is copied without any directory being locked, and is put in its place under the lock of its parent, after a
//! look whether that is still its place.

pub mod branch;
pub mod name;
pub mod node;

use std::sync::Mutex;

use branch::Branch;

/// A union of branches.
#[derive(Debug)]
pub struct Union {
    /// The topmost first. If any can be written, the first can, and no other.
    pub(crate) branches: Vec<Branch>,
    /// Held while a directory gets another parent, so that who is above whom stands still meanwhile.
    pub(crate) moving: Mutex<()>,
}
