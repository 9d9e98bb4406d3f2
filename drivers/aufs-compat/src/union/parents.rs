//! Copying directories up, so that something can be made in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, Statx, Timespec, Timestamps};
use rustix::io::Errno;

use super::names::Directory;
use super::node::Node;
use super::reach::{TRIES, device_of, open_directory, stat_open};
use super::start::cause;
use super::{Result, Union, write};

impl Union {
    /// Sees to it that a directory is on the writable branch, and all those that it is in.
    pub(crate) fn copy_up_directory(&self, node: &Arc<Node>) -> Result<()> {
        if self.orphans.is_none() {
            return Err(Errno::ROFS);
        }
        for _ in 0..TRIES {
            let mut missing = Vec::new();
            let mut at = Arc::clone(node);
            while !self.is_upper(&at) {
                // A directory that was removed from a lower branch is nowhere.
                let parent = at.parent().ok_or(Errno::NOENT)?;
                missing.push(std::mem::replace(&mut at, parent));
            }
            let done = missing.iter().rev().try_for_each(|node| self.raise_directory(node));
            match done {
                // Somebody moved one of them meanwhile.
                Err(Errno::AGAIN) => {}
                done => return done,
            }
        }
        Err(Errno::BUSY)
    }

    /// The same, for the directory that something is about to be made in, and that descriptor.
    pub(crate) fn upper_directory(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        self.copy_up_directory(node)?;
        self.directory(node, 0)
    }

    /// Copies one directory, the parent of which is on the writable branch. `EAGAIN` where it is another one meanwhile.
    fn raise_directory(&self, node: &Arc<Node>) -> Result<()> {
        let place = node.place().names.first().cloned().ok_or(Errno::NOENT)?;
        let parent = place.parent;
        let mut around = self.change_names(&parent)?;
        if self.is_upper(node) {
            return Ok(());
        }
        if !node.place().is_only(&parent, &place.name) {
            return Err(Errno::AGAIN);
        }
        let above = self.directory(&parent, 0)?;
        let mut entry = around.names()?.get(&place.name)?.clone();
        let top = entry.top.as_mut().ok_or(Errno::AGAIN)?;
        let mut directory = write(node.entries()?);
        let (from, _) = self.open_node(node, fs::OFlags::RDONLY | fs::OFlags::DIRECTORY)?;
        let inode = self.copy_directory(from.as_fd(), above.as_fd(), &place.name, node.number)?;
        top.more = top.branches();
        (top.branch, top.inode) = (0, inode);
        entry.covers = true;
        around.names_mut()?.set(&place.name, entry);
        raised(node, &mut directory, inode);
        Ok(())
    }

    /// Makes a directory like `from` and puts it into the directory `to` of the writable branch, whose times stay. Returns
    /// its inode number; in the union it has the number that is given.
    fn copy_directory(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        number: u64,
    ) -> Result<u64> {
        let orphans = self.orphans().ok_or(Errno::ROFS)?;
        let around = stat_open(to)?;
        // Not made where it belongs, where it would inherit an ACL and perhaps the group.
        let aside = self.whiteouts()?.aside(b"dir", |aside| fs::mkdirat(orphans, aside, Mode::RWXU))?;
        let copy = || {
            let made = open_directory(orphans, &*aside)?;
            mica_tree::copy_attributes(from, made.as_fd()).map_err(|error| cause(&error))?;
            let stat = stat_open(made.as_fd())?;
            self.numbers.keep(device_of(&stat), stat.stx_ino, number);
            let placed = fs::renameat(orphans, &*aside, to, name);
            if placed.is_err() {
                self.numbers.drop_kept(device_of(&stat), stat.stx_ino);
            }
            placed.map(|()| stat.stx_ino)
        };
        match copy() {
            Ok(inode) => {
                restore_times(to, &around);
                Ok(inode)
            }
            Err(errno) => {
                // What stays is deleted when the branch is mounted again.
                let _stays = fs::unlinkat(orphans, &*aside, AtFlags::REMOVEDIR);
                Err(errno)
            }
        }
    }
}

/// A directory is on the writable branch now, too. Its names are as they were.
fn raised(node: &Node, directory: &mut Directory, inode: u64) {
    directory.branches = std::iter::once(0).chain(directory.branches.iter().copied()).collect();
    let mut place = node.place();
    (place.branch, place.inode) = (0, inode);
}

/// Gives a directory the times back that it had before something was copied up into it. That it was is not a change that
/// anybody asked for, and no reason to fail.
pub(crate) fn restore_times(directory: BorrowedFd<'_>, before: &Statx) {
    let time = |time: fs::StatxTimestamp| Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
    let times = Timestamps { last_access: time(before.stx_atime), last_modification: time(before.stx_mtime) };
    let _unchanged = fs::utimensat(fs::CWD, super::reach::proc_path(directory), &times, AtFlags::empty());
}
