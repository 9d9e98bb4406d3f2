//! Reading directories.

use std::io;
use std::sync::{Arc, Mutex};

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::name;
use super::node::Node;
use super::protocol::entry;
use super::{Result, Union, lock};

/// A directory that the kernel has open.
#[derive(Debug)]
pub(crate) struct Listing {
    node: Arc<Node>,
    /// What was read at its beginning, the last time.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

/// The names of a directory at one moment. They stay, and keep their order, whatever happens to the directory.
#[derive(Debug, Default)]
struct Snapshot {
    entries: Vec<Listed>,
    /// All names, one behind the other.
    names: Vec<u8>,
}

#[derive(Debug)]
struct Listed {
    number: u64,
    kind: FileType,
    end: u32,
}

/// One of the names of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item<'a> {
    /// The number in the union.
    number: u64,
    kind: FileType,
    name: &'a [u8],
}

impl<'a> Item<'a> {
    fn told(self, offset: u64) -> DirEntry<'a> {
        DirEntry { ino: self.number, offset, type_: kind_number(self.kind), name: self.name }
    }
}

/// `DT_*` of `dirent.h`.
fn kind_number(kind: FileType) -> u32 {
    kind.as_raw_mode() >> 12
}

impl Snapshot {
    /// What is at this position; `.` and `..` are the first two.
    fn get(&self, position: usize) -> Option<Item<'_>> {
        let entry = self.entries.get(position)?;
        let start = position.checked_sub(1).and_then(|before| self.entries.get(before));
        let start = start.map_or(0, |before| before.end as usize);
        let name = self.names.get(start..entry.end as usize)?;
        Some(Item { number: entry.number, kind: entry.kind, name })
    }

    /// What is there from a position on, each with the position that follows.
    fn from(&self, offset: u64) -> impl Iterator<Item = (Item<'_>, u64)> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        (start..self.entries.len()).filter_map(|at| Some((self.get(at)?, at as u64 + 1)))
    }

    fn push(&mut self, number: u64, kind: FileType, name: &[u8]) {
        self.names.extend_from_slice(name);
        // 4 GiB of names would be 17 million at the least, more memory than there is for one directory.
        let end = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.entries.push(Listed { number, kind, end });
    }
}

impl Union {
    /// Opens a directory and answers with the number by which it is read.
    pub(crate) fn open_directory(&self, node: &Arc<Node>) -> Result<u64> {
        node.entries()?;
        Ok(self.listings.insert(Arc::new(Listing { node: Arc::clone(node), snapshot: Mutex::default() })))
    }

    /// Undoes that.
    pub(crate) fn close_directory(&self, handle: u64) {
        self.listings.remove(handle);
    }

    /// Hands out the names of an open directory from a position on, until `add` answers that there is no room for one. At
    /// the beginning they are read anew, after that they are those that were there then.
    pub(crate) fn read_directory(
        &self,
        handle: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (_, snapshot) = self.snapshot(handle, offset)?;
        for (item, next) in snapshot.from(offset) {
            if add(item.told(next))? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The same with what is known of each file. The kernel holds every one that there was room for once more.
    pub(crate) fn read_directory_plus(
        &self,
        handle: u64,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (node, snapshot) = self.snapshot(handle, offset)?;
        for (item, next) in snapshot.from(offset) {
            if matches!(item.name, b"." | b"..") {
                if add(item.told(next), Entry::default())? == 0 {
                    break;
                }
                continue;
            }
            // What cannot be looked up, or is gone meanwhile, is told by its name alone.
            let found = self.lookup(&node, item.name).ok().flatten();
            let told = found.as_ref().map_or_else(Entry::default, entry);
            let added = add(item.told(next), told);
            if let Some(found) = found.filter(|_| !matches!(added, Ok(1..))) {
                self.forget(found.node.number, 1);
            }
            if added? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn snapshot(&self, handle: u64, offset: u64) -> Result<(Arc<Node>, Arc<Snapshot>)> {
        let listing = self.listings.get(handle).ok_or(Errno::BADF)?;
        let mut snapshot = lock(&listing.snapshot);
        let snapshot = match &*snapshot {
            Some(known) if offset != 0 => Arc::clone(known),
            _ => Arc::clone(snapshot.insert(Arc::new(self.list(&listing.node)?))),
        };
        Ok((Arc::clone(&listing.node), snapshot))
    }

    /// The names that a directory has now, in the order in which it is quickest to look at the files.
    fn list(&self, node: &Arc<Node>) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let parent = node.parent().unwrap_or_else(|| Arc::clone(node));
        snapshot.push(node.number, FileType::Directory, b".");
        snapshot.push(parent.number, FileType::Directory, b"..");
        let directory = self.names_of(node)?;
        // A name that is too long cannot be looked up either.
        let fits = |name: &[u8]| name.len() <= name::LONGEST;
        let mut shown: Vec<_> = directory.names()?.shown().filter(|(name, _)| fits(name)).collect();
        shown.sort_unstable_by_key(|(_, top)| (top.branch, top.inode));
        snapshot.entries.reserve_exact(shown.len());
        for (name, top) in shown {
            snapshot.push(self.number_of(top)?, top.kind, name);
        }
        Ok(snapshot)
    }

    /// The names of a directory, with the numbers in the union.
    #[cfg(test)]
    pub(crate) fn listed(&self, node: &Arc<Node>) -> Result<Vec<(Vec<u8>, u64, FileType)>> {
        let snapshot = self.list(node)?;
        let all = snapshot.from(2).map(|(item, _)| (item.name.to_vec(), item.number, item.kind));
        Ok(all.collect())
    }
}
