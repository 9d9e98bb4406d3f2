//! The merged names of a directory.
//!
//! They are read once, in one pass over each branch that the directory is on, and then kept up to date by whatever is
//! changed through the mount. So a name is looked up on the branch that it is on, and one that is not there nowhere,
//! however many branches there are. A name costs about 100 bytes (and its length), so [`Budget`] has those dropped that
//! were not used of late.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::node::Node;
use super::{Result, lock};

/// What is known about a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The branches that it is shown from, the topmost first. Until its names were read, those below one where it is opaque
    /// are still among them.
    pub(crate) branches: Box<[u16]>,
    /// It was removed: nothing can be made in it any more.
    pub(crate) removed: bool,
    names: Option<Box<Names>>,
    used: AtomicBool,
}

impl Directory {
    pub(crate) fn new(branches: Box<[u16]>) -> Self {
        Self { branches, removed: false, names: None, used: AtomicBool::new(false) }
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.names.is_some()
    }

    pub(crate) fn names(&self) -> Result<&Names> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.names.as_deref().ok_or(Errno::STALE)
    }

    pub(crate) fn names_mut(&mut self) -> Result<&mut Names> {
        self.used.store(true, Ordering::Relaxed);
        self.names.as_deref_mut().ok_or(Errno::STALE)
    }

    pub(crate) fn set_names(&mut self, names: Option<Names>) {
        self.names = names.map(Box::new);
    }
}

/// What there is of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What is shown.
    pub(crate) top: Option<Top>,
    /// It is hidden by a whiteout on the writable branch.
    pub(crate) whiteout: bool,
    /// Without what the writable branch has of it, something below would be shown.
    pub(crate) covers: bool,
    /// On the writable branch there is something of this name under the whiteout: a crash interrupted its making or removal.
    pub(crate) shadowed: bool,
    /// It is hidden by a whiteout that is no regular file.
    pub(crate) broken: bool,
}

/// What is shown of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Top {
    pub(crate) kind: FileType,
    /// The topmost branch.
    pub(crate) branch: u16,
    /// The inode number there.
    pub(crate) inode: u64,
    /// The branches below that a directory goes on in.
    pub(crate) more: Box<[u16]>,
}

impl Top {
    pub(crate) fn new(kind: FileType, branch: u16, inode: u64) -> Self {
        Self { kind, branch, inode, more: Box::default() }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// All branches of a directory.
    pub(crate) fn branches(&self) -> Box<[u16]> {
        std::iter::once(self.branch).chain(self.more.iter().copied()).collect()
    }
}

impl Entry {
    /// What there is of a name that nobody ever used.
    pub(crate) const NOTHING: Self =
        Self { top: None, whiteout: false, covers: false, shadowed: false, broken: false };

    fn is_nothing(&self) -> bool {
        self.top.is_none() && !self.whiteout && !self.shadowed && !self.broken
    }
}

/// The merged names of one directory.
#[derive(Debug)]
pub(crate) struct Names {
    entries: HashMap<Box<[u8]>, Entry>,
    budget: Arc<Budget>,
}

impl Names {
    pub(crate) fn new(mut entries: HashMap<Box<[u8]>, Entry>, budget: &Arc<Budget>) -> Self {
        entries.retain(|_, entry| !entry.is_nothing());
        entries.shrink_to_fit();
        budget.used.fetch_add(entries.len(), Ordering::Relaxed);
        Self { entries, budget: Arc::clone(budget) }
    }

    /// What there is of this name; `EIO` where its whiteout is no regular file.
    pub(crate) fn get(&self, name: &[u8]) -> Result<&Entry> {
        match self.entries.get(name) {
            Some(entry) if entry.broken => Err(Errno::IO),
            Some(entry) => Ok(entry),
            None => Ok(&Entry::NOTHING),
        }
    }

    /// What is shown of this name.
    pub(crate) fn top(&self, name: &[u8]) -> Result<Option<&Top>> {
        Ok(self.get(name)?.top.as_ref())
    }

    pub(crate) fn set(&mut self, name: &[u8], entry: Entry) {
        let before = self.entries.len();
        if entry.is_nothing() {
            self.entries.remove(name);
        } else if let Some(known) = self.entries.get_mut(name) {
            *known = entry;
        } else {
            self.entries.insert(name.into(), entry);
        }
        let after = self.entries.len();
        if after > before {
            self.budget.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// The names that are shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&[u8], &Top)> {
        self.entries.iter().filter_map(|(name, entry)| {
            let top = entry.top.as_ref().filter(|_| !entry.broken)?;
            Some((&**name, top))
        })
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.entries.len(), Ordering::Relaxed);
    }
}

/// How many names are kept, of all directories together.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    used: AtomicUsize,
    loaded: Mutex<VecDeque<Weak<Node>>>,
}

impl Budget {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0), loaded: Mutex::default() })
    }

    /// Takes note that the names of this directory were read, and drops those of others until there is room. The caller may
    /// hold the locks of directories: none is waited for, and those that are in use keep their names.
    pub(crate) fn loaded(&self, node: &Arc<Node>) {
        let mut queue = lock(&self.loaded);
        queue.push_back(Arc::downgrade(node));
        let mut considered = 0;
        // Nobody else may have them any more: then they are dropped after the queue is unlocked.
        let mut nodes = Vec::new();
        while (self.used.load(Ordering::Relaxed) > self.most || considered < 2)
            && considered <= queue.len() * 2
        {
            considered += 1;
            let Some(first) = queue.pop_front() else { break };
            let Some(node) = first.upgrade() else { continue };
            let full = self.used.load(Ordering::Relaxed) > self.most;
            if !full || !self.evict(&node) {
                queue.push_back(first);
            }
            nodes.push(node);
        }
        drop(queue);
    }

    /// Drops the names of a directory, unless they were used since the last time, or are in use. Says whether it has none now.
    fn evict(&self, node: &Arc<Node>) -> bool {
        let Ok(directory) = node.entries() else { return true };
        let Ok(mut directory) = directory.try_write() else { return false };
        if directory.used.swap(false, Ordering::Relaxed) {
            return !directory.is_loaded();
        }
        directory.names = None;
        true
    }
}

#[cfg(test)]
impl Budget {
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}
