//! Reading the merged names of a directory from its branches.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::branch::Branch;
use super::merge::{Found, Merge, Source};
use super::name::WHITEOUT;
use super::names::{Directory, Names};
use super::node::Node;
use super::reach::{TRIES, kind_of, stat_at};
use super::{Result, Union, read, write};

/// How much is read of a directory by one call.
const BUFFER: usize = 32 * 1024;

impl Union {
    /// A directory with its names, shared with others that only look.
    pub(crate) fn names_of<'a>(&self, node: &'a Arc<Node>) -> Result<RwLockReadGuard<'a, Directory>> {
        for _ in 0..TRIES {
            let directory = read(node.entries()?);
            if directory.is_loaded() {
                return Ok(directory);
            }
            drop(directory);
            drop(self.load_directory(node)?);
        }
        Err(Errno::AGAIN)
    }

    /// A directory with its names, for one who changes it; `ENOENT` where it was removed meanwhile.
    pub(crate) fn change_names<'a>(&self, node: &'a Arc<Node>) -> Result<RwLockWriteGuard<'a, Directory>> {
        let directory = self.load_directory(node)?;
        if directory.removed { Err(Errno::NOENT) } else { Ok(directory) }
    }

    fn load_directory<'a>(&self, node: &'a Arc<Node>) -> Result<RwLockWriteGuard<'a, Directory>> {
        let mut directory = write(node.entries()?);
        if !directory.is_loaded() {
            let names = self.load(node, &mut directory)?;
            directory.set_names(Some(names));
            self.budget.loaded(node);
        }
        Ok(directory)
    }

    fn load(&self, node: &Arc<Node>, directory: &mut Directory) -> Result<Names> {
        let mut merge = Merge::default();
        let mut last = directory.branches.len();
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        for (at, &branch) in directory.branches.iter().enumerate() {
            if directory.removed {
                break;
            }
            let open = self.directory(node, branch)?;
            let of = self.branch(branch)?;
            let source = Source { branch, writable: of.writable, whiteouts: of.whiteouts };
            let found = match list(of, open.as_fd(), buffer.spare_capacity_mut()) {
                // Somebody else removed it: then there is nothing.
                Err(Errno::NOENT) if !of.writable => continue,
                listed => listed?,
            };
            if merge.add(source, found)? {
                last = at + 1;
                break;
            }
        }
        if last < directory.branches.len() {
            directory.branches = directory.branches[..last].into();
        }
        Ok(Names::new(merge.finish(), &self.budget))
    }
}

/// Everything in a directory of one branch, which nobody else reads meanwhile.
fn list(branch: &Branch, directory: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> Result<Vec<Found>> {
    seek(directory, SeekFrom::Start(0))?;
    let mut entries = RawDir::new(directory, buffer);
    let mut found = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let (mut kind, mut inode) = (entry.file_type(), entry.ino());
        if kind == FileType::Unknown || (!branch.exact && !name.starts_with(WHITEOUT)) {
            match stat_at(directory, name) {
                Ok(stat) => (kind, inode) = (kind_of(&stat), stat.stx_ino),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            }
        }
        found.push(Found { name: name.into(), kind, inode });
    }
    Ok(found)
}
