//! A file of the union that the kernel knows.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, RwLock, Weak};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::content::Content;
use super::names::Directory;
use super::table::Table;
use super::{Result, lock};

/// The number of the root in the protocol.
pub(crate) const ROOT: u64 = 1;

/// How many names of one file are kept. A file that has more is still reached when all of these are gone, by a descriptor.
const MOST_NAMES: usize = 64;

/// A file, directory or anything else that the kernel holds by its number, or that is above one.
///
/// It needs about 300 bytes, besides the 100 of its name in its directory, and has no descriptor of its own: it is reached
/// by its name in its parent. Whoever reached it compares the inode number of what is there with the one that is expected,
/// and reads the place again where they differ, since another thread may have moved it meanwhile.
#[derive(Debug)]
pub struct Node {
    /// Its inode number in the union, and its number in the protocol; the root's there is 1.
    pub number: u64,
    /// Never changes.
    pub kind: FileType,
    place: Mutex<Place>,
    body: Body,
    table: Weak<Table>,
}

#[derive(Debug)]
enum Body {
    Directory(RwLock<Directory>),
    File(Mutex<Content>),
}

/// Where a node is.
#[derive(Debug)]
pub(crate) struct Place {
    /// The topmost branch that it is on.
    pub(crate) branch: u16,
    /// Its inode number on that branch.
    pub(crate) inode: u64,
    /// Names under which it is on that branch: for a directory the one that it has, for other files some of them. Without any
    /// it is the root, or `pinned`, or has a pseudo-link.
    pub(crate) names: Vec<Name>,
    /// Open for its path alone, while no name is known.
    pub(crate) pinned: Option<Arc<OwnedFd>>,
}

/// A name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) parent: Arc<Node>,
    pub(crate) name: Box<[u8]>,
}

impl Name {
    pub(crate) fn new(parent: &Arc<Node>, name: &[u8]) -> Self {
        Self { parent: Arc::clone(parent), name: name.into() }
    }

    pub(crate) fn is(&self, parent: &Node, name: &[u8]) -> bool {
        std::ptr::eq(&*self.parent, parent) && *self.name == *name
    }
}

impl Place {
    pub(crate) fn new(branch: u16, inode: u64) -> Self {
        Self { branch, inode, names: Vec::new(), pinned: None }
    }

    pub(crate) fn named(branch: u16, inode: u64, name: Name) -> Self {
        Self { branch, inode, names: vec![name], pinned: None }
    }

    pub(crate) fn pinned(branch: u16, inode: u64, file: Arc<OwnedFd>) -> Self {
        Self { branch, inode, names: Vec::new(), pinned: Some(file) }
    }

    /// Takes note of a name under which it is on its branch.
    pub(crate) fn add(&mut self, parent: &Arc<Node>, name: &[u8]) {
        if self.names.len() < MOST_NAMES && !self.names.iter().any(|known| known.is(parent, name)) {
            self.names.push(Name::new(parent, name));
        }
        if !self.names.is_empty() {
            self.pinned = None;
        }
    }

    /// Forgets a name. Where that was the only one, what is pinned takes its place.
    pub(crate) fn remove(&mut self, parent: &Node, name: &[u8], pinned: Option<Arc<OwnedFd>>) {
        self.names.retain(|known| !known.is(parent, name));
        if self.names.is_empty() && self.pinned.is_none() {
            self.pinned = pinned;
        }
    }

    /// Whether no other name is known.
    pub(crate) fn is_only(&self, parent: &Node, name: &[u8]) -> bool {
        self.names.iter().all(|known| known.is(parent, name))
    }
}

impl Node {
    pub(crate) fn directory(number: u64, place: Place, branches: Box<[u16]>, table: &Arc<Table>) -> Self {
        let body = Body::Directory(RwLock::new(Directory::new(branches)));
        Self {
            number,
            kind: FileType::Directory,
            place: Mutex::new(place),
            body,
            table: Arc::downgrade(table),
        }
    }

    pub(crate) fn file(number: u64, kind: FileType, place: Place, table: &Arc<Table>) -> Self {
        let body = Body::File(Mutex::default());
        Self { number, kind, place: Mutex::new(place), body, table: Arc::downgrade(table) }
    }

    /// Where it is. The lock is a leaf: nothing else is locked and no call is made while it is held.
    pub(crate) fn place(&self) -> std::sync::MutexGuard<'_, Place> {
        lock(&self.place)
    }

    /// What is known of its open files; `EISDIR` for a directory.
    pub(crate) fn content(&self) -> Result<&Mutex<Content>> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Errno::ISDIR),
        }
    }

    /// What is known of a directory; `ENOTDIR` for anything else.
    pub(crate) fn entries(&self) -> Result<&RwLock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            Body::File(_) => Err(Errno::NOTDIR),
        }
    }

    /// The directory that it is in; none for the root, and for what has no name any more.
    pub(crate) fn parent(&self) -> Option<Arc<Node>> {
        self.place().names.first().map(|name| Arc::clone(&name.parent))
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether this is the same as `other`, or above it.
    pub(crate) fn is_above(&self, other: &Arc<Node>) -> bool {
        let mut at = Some(Arc::clone(other));
        while let Some(node) = at {
            if std::ptr::eq(&*node, self) {
                return true;
            }
            at = node.parent();
        }
        false
    }

    fn take_names(&mut self) -> Vec<Name> {
        let place = self.place.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut place.names)
    }
}

impl Drop for Node {
    /// Goes up in a loop: a tree can be deeper than a stack.
    fn drop(&mut self) {
        let Some(table) = self.table.upgrade() else { return };
        table.clear(self.number);
        let mut parents: Vec<Arc<Node>> = self.take_names().into_iter().map(|name| name.parent).collect();
        while let Some(parent) = parents.pop() {
            if let Some(mut parent) = Arc::into_inner(parent) {
                parents.extend(parent.take_names().into_iter().map(|name| name.parent));
            }
        }
    }
}
