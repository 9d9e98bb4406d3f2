//! Changes from two whole trees.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Stat;

use super::file::{At, Named, join, look, names, same};
use super::list::{Out, Pending};
use super::{ChangeKind, LeftOut};
use crate::Result;

/// Compares the tree `layer` with the tree `parent`, or with nothing. `only` has the inodes of the layer that may differ.
pub(super) fn walk<O: Out>(
    layer: &OwnedFd,
    parent: Option<&OwnedFd>,
    only: Option<&HashSet<u64>>,
    left_out: LeftOut<'_>,
    out: &mut O,
) -> Result<()> {
    let mut walk = Walk { only, left_out, out, pending: Pending::default() };
    walk.children(layer, parent, true, b"")
}

struct Walk<'a, O: Out> {
    only: Option<&'a HashSet<u64>>,
    left_out: LeftOut<'a>,
    out: &'a mut O,
    pending: Pending<O::Dir>,
}

impl<O: Out> Walk<'_, O> {
    fn may_differ(&self, inode: u64) -> bool {
        self.only.is_none_or(|only| only.contains(&inode))
    }

    /// Walks a directory beside the parent's. `listed`: its names may differ from the parent's.
    fn children(
        &mut self,
        layer: &OwnedFd,
        parent: Option<&OwnedFd>,
        listed: bool,
        path: &[u8],
    ) -> Result<()> {
        let here = names(layer, path)?;
        if let Some(parent) = parent.filter(|_| listed) {
            self.deletions(&here, parent, path)?;
        }
        for named in here {
            let path = join(path, &named.name);
            // Only directories can have a difference below them without one of their own.
            let skip = parent.is_some() && named.file_type == Some(false) && !self.may_differ(named.inode);
            if skip || (self.left_out)(&path) {
                continue;
            }
            if let Some(stat) = look(layer, &named.name, &path)? {
                let at = At { dir: layer.as_fd(), name: &named.name, path: &path, stat: &stat };
                self.child(&at, parent)?;
            }
        }
        Ok(())
    }

    fn deletions(&mut self, here: &[Named], parent: &OwnedFd, path: &[u8]) -> Result<()> {
        for gone in names(parent, path)? {
            let here = here.binary_search_by(|named| named.name.cmp(&gone.name)).is_ok();
            let path = join(path, &gone.name);
            if !here && !(self.left_out)(&path) {
                self.pending.emit(self.out)?;
                self.out.deleted(&path)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, at: &At<'_>, parent: Option<&OwnedFd>) -> Result<()> {
        let stat: Option<Stat> = parent.map_or(Ok(None), |parent| look(parent, at.name, at.path))?;
        let before = match (&stat, parent) {
            (Some(stat), Some(parent)) => Some(At { dir: parent.as_fd(), stat, ..*at }),
            _ => None,
        };
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let alike = before.filter(|before| before.file_type() == at.file_type());
        let differs = match &alike {
            Some(before) => self.may_differ(at.stat.st_ino) && !same(at, before)?,
            None => true,
        };
        if at.is_dir() {
            return self.directory(at, alike.as_ref(), kind, differs);
        }
        if differs {
            self.pending.emit(self.out)?;
            return self.out.file(at, kind);
        }
        if !at.has_links() {
            return Ok(());
        }
        if self.out.wants_link(at) {
            self.pending.emit(self.out)?;
        }
        self.out.unchanged_link(at)
    }

    fn directory(
        &mut self,
        at: &At<'_>,
        before: Option<&At<'_>>,
        kind: ChangeKind,
        differs: bool,
    ) -> Result<()> {
        let layer = at.open_dir()?;
        let parent = before.map(At::open_dir).transpose()?;
        let prepared = self.out.dir(at, kind)?;
        self.pending.enter(prepared);
        if differs {
            self.pending.emit(self.out)?;
        }
        self.children(&layer, parent.as_ref(), self.may_differ(at.stat.st_ino), at.path)?;
        self.pending.leave();
        Ok(())
    }
}
