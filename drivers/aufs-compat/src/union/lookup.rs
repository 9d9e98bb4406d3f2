//! From a name to a node.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::Statx;
use rustix::io::Errno;

use super::name;
use super::names::Top;
use super::node::{Name, Node, Place, ROOT};
use super::reach::{device_of, kind_of, stat_at};
use super::{Result, Union, write};

/// What a name stands for.
#[derive(Debug)]
pub struct Found {
    /// The kernel holds it once more: whoever asked has it forgotten some day.
    pub node: Arc<Node>,
    /// With its number in the union.
    pub stat: Statx,
}

impl Union {
    /// The node of this number, that the kernel was given.
    pub fn node(&self, number: u64) -> Result<Arc<Node>> {
        if number == ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.table.get(number).ok_or(Errno::STALE)
    }

    /// What is called this in a directory. Nothing is an answer that stays true until something of that name is made.
    ///
    /// Names that AUFS keeps for itself are refused (`EPERM`), and those that are too long (`ENAMETOOLONG`).
    pub fn lookup(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Option<Found>> {
        name::check(name)?;
        // Twice, for a branch that somebody else changed: then the names are read anew.
        for _ in 0..2 {
            let directory = self.names_of(parent)?;
            let Some(top) = directory.names()?.top(name)? else { return Ok(None) };
            if let Some(found) = self.find(parent, name, top)? {
                return Ok(Some(found));
            }
            drop(directory);
            write(parent.entries()?).set_names(None);
        }
        Err(Errno::STALE)
    }

    /// The kernel forgets so many of the times that it was given the node of this number.
    pub fn forget(&self, number: u64, times: u64) {
        if number != ROOT {
            self.table.forget(number, times);
        }
    }

    /// How many nodes there are: those that the kernel holds, and what is above them.
    pub fn nodes(&self) -> usize {
        self.table.len()
    }

    /// With the directory locked. `None` where it has not what its names say.
    fn find(&self, parent: &Arc<Node>, name: &[u8], top: &Top) -> Result<Option<Found>> {
        let directory = self.directory(parent, top.branch)?;
        let stat = match stat_at(directory.as_fd(), name) {
            Ok(stat) if kind_of(&stat) == top.kind => stat,
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let number = self.numbers.of(device_of(&stat), stat.stx_ino);
        let node = self.enter(parent, name, top, number, stat.stx_ino);
        self.table.hold(&node);
        let (branch, inode) = {
            let place = node.place();
            (place.branch, place.inode)
        };
        // Of a file with several names another may have been copied up: then that is what all of them stand for.
        if branch != top.branch || inode != stat.stx_ino {
            return match self.stat(&node) {
                Ok(stat) => Ok(Some(Found { node, stat })),
                Err(errno) => {
                    self.forget(number, 1);
                    Err(errno)
                }
            };
        }
        let stat = self.present(&node, stat, branch);
        Ok(Some(Found { node, stat }))
    }

    /// The node of what is called this, with its directory locked.
    pub(crate) fn enter(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
        top: &Top,
        number: u64,
        inode: u64,
    ) -> Arc<Node> {
        let node = self.table.get_or_insert(number, || {
            let linked = self.pseudo_links.as_ref().and_then(|links| links.upper(number));
            let place = match linked.filter(|_| !self.is_writable(top.branch)) {
                Some(upper) => Place::new(0, upper),
                None => Place::named(top.branch, inode, Name::new(parent, name)),
            };
            match top.is_directory() {
                true => Node::directory(number, place, top.branches(), &self.table),
                false => Node::file(number, top.kind, place, &self.table),
            }
        });
        let mut place = node.place();
        if place.branch == top.branch && place.inode == inode {
            place.add(parent, name);
        }
        drop(place);
        node
    }
}
