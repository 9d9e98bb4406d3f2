//! Putting a copy of a lower file in its place.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Statx;
use rustix::io::Errno;

use super::copy_up::Copied;
use super::node::{Name, Node, Place};
use super::parents::restore_times;
use super::reach::{TRIES, device_of, stat_open};
use super::{Result, Union};

impl Union {
    /// Puts a whole copy of a file of a lower branch in its place, wherever that is by now. The caller holds the lock of its
    /// content, so nobody else does.
    ///
    /// Where the file was deleted meanwhile the copy gets no name, and is what those have who still have the file. If the
    /// file has other names, they stand for the copy from then on.
    pub(crate) fn publish(&self, node: &Arc<Node>, copied: &mut Copied<'_>) -> Result<()> {
        let (below, _) = self.stat_on_branch(node)?;
        let stat = stat_open(copied.file.as_fd())?;
        self.numbers.keep(device_of(&stat), stat.stx_ino, node.number);
        let placed = self.place_copy(node, node, copied, &stat, below.stx_nlink);
        if placed.is_err() {
            self.numbers.drop_kept(device_of(&stat), stat.stx_ino);
        }
        placed
    }

    /// The same, but the copy is another file than the one that it was made of, with another number. Who has that open keeps
    /// it; its names stand for the copy.
    pub(crate) fn publish_apart(&self, node: &Arc<Node>, copied: &mut Copied<'_>) -> Result<Arc<Node>> {
        let (below, _) = self.stat_on_branch(node)?;
        let stat = stat_open(copied.file.as_fd())?;
        let number = self.numbers.of(device_of(&stat), stat.stx_ino);
        let at = node.place().names.first().cloned();
        let copy = self.table.get_or_insert(number, || {
            let place = Place::pinned(0, stat.stx_ino, Arc::clone(&copied.file));
            Node::file(number, node.kind, place, &self.table)
        });
        if below.stx_nlink > 1 {
            self.numbers.keep(device_of(&below), below.stx_ino, number);
        }
        let placed = self.place_copy(node, &copy, copied, &stat, below.stx_nlink);
        if let Err(errno) = placed {
            self.numbers.drop_kept(device_of(&below), below.stx_ino);
            return Err(errno);
        }
        if let Some(at) = at {
            self.forget_name(&at);
        }
        Ok(copy)
    }

    /// Puts a copy of `node` in its place; from then on the node `copy`, which may be the same, is there.
    fn place_copy(
        &self,
        node: &Arc<Node>,
        copy: &Arc<Node>,
        copied: &mut Copied<'_>,
        stat: &Statx,
        below: u32,
    ) -> Result<()> {
        let inode = stat.stx_ino;
        let mut linked = false;
        for _ in 0..TRIES {
            let place = node.place().names.first().cloned();
            if below > 1 && !linked {
                self.pseudo_links()?.add(copy.number, inode, below, copied)?;
                linked = true;
            }
            let placed = match place {
                Some(name) => self.place_named(node, copy, copied, &name, inode),
                None => Ok(place_deleted(node, copy, copied, inode)),
            };
            match placed {
                // It was renamed, or deleted, or its directory was.
                Ok(false) | Err(Errno::NOENT) => {}
                Ok(true) => {
                    if linked && !copy.place().names.is_empty() {
                        self.pseudo_links()?.lost(copy.number);
                    }
                    return Ok(());
                }
                Err(errno) => {
                    self.undo_pseudo_link(copy, inode, linked);
                    return Err(errno);
                }
            }
        }
        self.undo_pseudo_link(copy, inode, linked);
        Err(Errno::BUSY)
    }

    fn undo_pseudo_link(&self, node: &Node, inode: u64, linked: bool) {
        if let Some(links) = self.pseudo_links.as_ref().filter(|_| linked) {
            links.undo(node.number, inode);
        }
    }

    /// Says whether the file was still there.
    fn place_named(
        &self,
        node: &Arc<Node>,
        copy: &Arc<Node>,
        copied: &mut Copied<'_>,
        at: &Name,
        inode: u64,
    ) -> Result<bool> {
        let Name { parent, name } = at;
        let upper = self.upper_directory(parent)?;
        let mut directory = self.change_names(parent)?;
        let still = node.place().names.iter().any(|known| known.is(parent, name));
        let mut entry = directory.names()?.get(name)?.clone();
        let (true, Some(top)) = (still, &mut entry.top) else { return Ok(false) };
        let old = if Arc::ptr_eq(node, copy) { None } else { Some(self.pin_freely(node)?) };
        let around = stat_open(upper.as_fd())?;
        copied.place(upper.as_fd(), name)?;
        restore_times(upper.as_fd(), &around);
        (top.branch, top.inode) = (0, inode);
        entry.covers = true;
        directory.names_mut()?.set(name, entry);
        if old.is_some() {
            let mut place = node.place();
            place.names.clear();
            place.pinned = old;
        }
        *copy.place() = Place::named(0, inode, at.clone());
        Ok(true)
    }
}

/// Says whether the file has no name still.
fn place_deleted(node: &Node, copy: &Node, copied: &Copied<'_>, inode: u64) -> bool {
    if !node.place().names.is_empty() {
        return false;
    }
    *copy.place() = Place::pinned(0, inode, Arc::clone(&copied.file));
    true
}
