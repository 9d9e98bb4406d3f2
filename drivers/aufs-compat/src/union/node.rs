//! A file of the union that the kernel knows.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use rustix::fs::FileType;

/// A file, directory or anything else that the kernel holds by its number.
///
/// It has no descriptor of its own: it is reached by its name in its parent. Whoever reached it compares the inode number
/// of what is there with the one that is expected, and reads the place again where they differ, since another thread may
/// have moved it meanwhile.
#[derive(Debug)]
pub struct Node {
    /// Its inode number in the union, and its number in the protocol; the root's there is 1.
    pub number: u64,
    /// Never changes.
    pub kind: FileType,
    /// How often the kernel was given it and has not forgotten it yet.
    pub lookups: AtomicU64,
    /// Where it is now.
    pub place: Mutex<Place>,
    /// What kind of node it is.
    pub body: Body,
}

/// What a node has by its kind.
#[derive(Debug)]
pub enum Body {
    /// A directory.
    Directory(Mutex<Directory>),
    /// Everything else.
    File(Mutex<Content>),
}

/// Where a node is.
#[derive(Clone, Debug)]
pub enum Place {
    /// The root of the union.
    Root,
    /// Under this name in the union. A directory is in each of its branches under it.
    Named {
        /// The directory.
        parent: Arc<Node>,
        /// The name.
        name: Box<[u8]>,
        /// The topmost branch that it is on.
        branch: u16,
        /// Its inode number on that branch.
        inode: u64,
    },
    /// Nowhere: it was deleted, and somebody still has it.
    Deleted {
        /// The file, open for its path alone.
        file: Arc<OwnedFd>,
        /// The branch that it is on.
        branch: u16,
    },
}

/// What is known about a directory.
#[derive(Debug, Default)]
pub struct Directory {
    /// The branches that it is shown from, the topmost first: to the first that is opaque, or that has something else of
    /// this name.
    pub branches: Vec<u16>,
}

/// What is known about a file that is open.
#[derive(Debug, Default)]
pub struct Content {}
