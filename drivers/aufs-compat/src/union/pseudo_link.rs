//! Files with several names that were copied up.
//!
//! A file of a lower branch that has several names, one of which is written, must not fall apart. Its copy gets the name
//! that was written, and another in a directory in the root of the writable branch (`.wh..wh.plnk/NUMBER.INODE`). Its other
//! names stay on the lower branch and stand for the copy from then on. At the end of the mount they are made in the writable
//! branch (see [`Union::flush_pseudo_links`](super::Union::flush_pseudo_links)), and the directory is emptied.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::copy_up::Copied;
use super::{Result, read, write};

/// The pseudo-links of a union.
#[derive(Debug)]
pub(crate) struct PseudoLinks {
    /// Where they are.
    pub(crate) directory: Arc<OwnedFd>,
    /// By the number of the file in the union: each that had several names below, and was copied up or lost a name.
    linked: RwLock<HashMap<u64, Linked>>,
    any: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Linked {
    /// The inode number of its copy on the writable branch.
    upper: Option<u64>,
    /// How many names it has below, where it was copied up.
    below: u32,
    /// How many of them do not stand for it any more: they were removed, or made in the writable branch.
    gone: u32,
}

impl Linked {
    fn waiting(self) -> u32 {
        self.below.saturating_sub(self.gone)
    }
}

impl PseudoLinks {
    pub(crate) fn new(directory: OwnedFd) -> Self {
        Self { directory: Arc::new(directory), linked: RwLock::default(), any: AtomicBool::new(false) }
    }

    /// The name of the copy, which has this inode number, of the file of this number.
    pub(crate) fn name(&self, number: u64, inode: u64) -> Vec<u8> {
        format!("{number}.{inode}").into_bytes()
    }

    /// The numbers in the name of a pseudo-link.
    pub(crate) fn parse(name: &[u8]) -> Option<(u64, u64)> {
        let (number, inode) = std::str::from_utf8(name).ok()?.split_once('.')?;
        Some((number.parse().ok()?, inode.parse().ok()?))
    }

    /// The inode number on the writable branch of what all names of this file stand for.
    pub(crate) fn upper(&self, number: u64) -> Option<u64> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        read(&self.linked).get(&number)?.upper
    }

    /// How many names a file has in the union that has so many on its branch.
    pub(crate) fn names_shown(&self, number: u64, on_branch: u32, upper: bool) -> u32 {
        if !self.any.load(Ordering::Acquire) {
            return on_branch;
        }
        match read(&self.linked).get(&number) {
            Some(linked) if upper && linked.upper.is_some() => {
                on_branch.saturating_sub(1).saturating_add(linked.waiting())
            }
            Some(linked) if !upper => on_branch.saturating_sub(linked.gone),
            _ => on_branch,
        }
    }

    /// Gives a whole copy of a file, which has this number and so many names below, its pseudo-link.
    pub(crate) fn add(&self, number: u64, inode: u64, below: u32, copy: &mut Copied<'_>) -> Result<()> {
        let name = self.name(number, inode);
        match copy.place(self.directory.as_fd(), &name) {
            // Left there by a crash: of a file that is gone, for its inode number was given again.
            Err(Errno::EXIST) => {
                fs::unlinkat(&self.directory, &*name, AtFlags::empty())?;
                copy.place(self.directory.as_fd(), &name)?;
            }
            done => done?,
        }
        let mut linked = write(&self.linked);
        let entry = linked.entry(number).or_default();
        entry.upper = Some(inode);
        entry.below = below;
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    /// Undoes [`add`](Self::add).
    pub(crate) fn undo(&self, number: u64, inode: u64) {
        if let Some(linked) = write(&self.linked).get_mut(&number) {
            linked.upper = None;
        }
        // What stays is removed when the copy is made anew, or at the end.
        let _stays = fs::unlinkat(&self.directory, self.name(number, inode), AtFlags::empty());
    }

    /// One of the names below stands for the file of this number no more. When none does, the pseudo-link is dropped.
    pub(crate) fn lost(&self, number: u64) {
        let mut linked = write(&self.linked);
        let entry = linked.entry(number).or_default();
        entry.gone += 1;
        self.any.store(true, Ordering::Release);
        if let Some(inode) = entry.upper.filter(|_| entry.waiting() == 0) {
            linked.remove(&number);
            drop(linked);
            // What stays is removed when the branch is mounted again.
            let _stays = fs::unlinkat(&self.directory, self.name(number, inode), AtFlags::empty());
        }
    }

    /// The inode numbers of the copies, by the numbers of the files.
    pub(crate) fn copies(&self) -> HashMap<u64, u64> {
        let linked = read(&self.linked);
        linked.iter().filter_map(|(&number, linked)| Some((number, linked.upper?))).collect()
    }

    /// Takes over the pseudo-link that another mount left.
    pub(crate) fn adopt(&self, number: u64, inode: u64) {
        let linked = Linked { upper: Some(inode), below: u32::MAX, gone: 0 };
        write(&self.linked).insert(number, linked);
        self.any.store(true, Ordering::Release);
    }

    /// Makes another name of a copy.
    pub(crate) fn link(&self, number: u64, inode: u64, directory: &OwnedFd, name: &[u8]) -> Result<()> {
        fs::linkat(&self.directory, self.name(number, inode), directory, name, AtFlags::empty())
    }

    /// Forgets a file, and drops its pseudo-link.
    pub(crate) fn drop_link(&self, number: u64, inode: u64) -> Result<()> {
        write(&self.linked).remove(&number);
        match fs::unlinkat(&self.directory, self.name(number, inode), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PseudoLinks;

    #[test]
    fn only_two_numbers_are_the_name_of_a_pseudo_link() {
        assert_eq!(PseudoLinks::parse(b"12.34"), Some((12, 34)));
        for other in [&b"12"[..], b"12.", b".34", b"a.b", b"\xff.1", b"1.2.3", b"99999999999999999999.1", b""]
        {
            assert_eq!(PseudoLinks::parse(other), None);
        }
    }
}
