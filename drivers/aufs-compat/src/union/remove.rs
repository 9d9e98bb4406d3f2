//! Removing files and directories.
//!
//! What is below is hidden before what is above is deleted, so no crash between the two brings anything back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::create::Site;
use super::name;
use super::names::{Entry, Top};
use super::node::Node;
use super::reach::stat_at;
use super::{Result, Union, lock};

impl Union {
    /// Removes a name that is no directory's.
    pub fn remove_file(&self, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
        let (mut site, top) = self.occupied(parent, name, |top| match top.is_directory() {
            true => Err(Errno::ISDIR),
            false => Ok(()),
        })?;
        let number = self.number_of(&top)?;
        let node = self.table.get(number);
        let pinned = self.pin_last(&site, node.as_ref())?;
        let shared = match top.branch {
            0 => false,
            branch => stat_at(self.directory(parent, branch)?.as_fd(), name)?.stx_nlink > 1,
        };
        self.cover(&site)?;
        if top.branch == 0
            && let Err(errno) = self.delete(&site, &top)
        {
            self.undo_cover(&site);
            return Err(errno);
        }
        if let Some(node) = &node {
            node.place().remove(parent, name, pinned);
        }
        self.vacate(&mut site)?;
        drop(site);
        if shared {
            self.pseudo_links()?.lost(number);
        }
        Ok(())
    }

    /// Removes a directory in which nothing is shown, whatever whiteouts there are in it.
    pub fn remove_directory(&self, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
        let (mut site, top) = self.occupied(parent, name, |top| match top.is_directory() {
            true => Ok(()),
            false => Err(Errno::NOTDIR),
        })?;
        let node = self.enter(parent, name, &top, self.number_of(&top)?, top.inode);
        let mut directory = self.change_names(&node)?;
        if directory.names()?.shown().next().is_some() {
            return Err(Errno::NOTEMPTY);
        }
        let pinned = Some(self.pin_freely(&node)?);
        self.cover(&site)?;
        let aside = match top.branch {
            0 => self.set_aside(&site).inspect_err(|_| self.undo_cover(&site))?,
            _ => None,
        };
        self.gone(&top);
        directory.removed = true;
        directory.set_names(None);
        self.drop_directory(&node, &directory.branches);
        node.place().remove(parent, name, pinned);
        self.vacate(&mut site)?;
        let upper = Arc::clone(&site.upper);
        drop((directory, site));
        if let Some(aside) = aside {
            // What stays is deleted with the directory that it is in, or when the branch is mounted again.
            let _stays = mica_tree::remove(upper.as_fd(), &aside);
        }
        Ok(())
    }

    /// Where something is that is about to be removed or moved, its parent being copied up and locked, and what it is.
    pub(crate) fn occupied<'a>(
        &self,
        parent: &'a Arc<Node>,
        name: &'a [u8],
        check: impl Fn(&Top) -> Result<()>,
    ) -> Result<(Site<'a>, Top)> {
        name::check(name)?;
        // Before anything is copied for nothing.
        check(self.names_of(parent)?.names()?.top(name)?.ok_or(Errno::NOENT)?)?;
        let upper = self.upper_directory(parent)?;
        let directory = self.change_names(parent)?;
        let entry = directory.names()?.get(name)?.clone();
        let top = entry.top.clone().ok_or(Errno::NOENT)?;
        check(&top)?;
        Ok((Site { parent, name, upper, directory, entry }, top))
    }

    /// The number in the union of what is shown.
    pub(crate) fn number_of(&self, top: &Top) -> Result<u64> {
        Ok(self.numbers.of(self.branch(top.branch)?.device, top.inode))
    }

    /// A descriptor of a node, after which it is reached when this, its only known name, is gone.
    pub(crate) fn pin_last(&self, site: &Site<'_>, node: Option<&Arc<Node>>) -> Result<Option<Arc<OwnedFd>>> {
        let Some(node) = node else { return Ok(None) };
        let last = {
            let place = node.place();
            place.pinned.is_none() && place.is_only(site.parent, site.name)
        };
        if last { self.pin_freely(node).map(Some) } else { Ok(None) }
    }

    /// Pins a node; directories that were only kept open for speed make room for that.
    pub(crate) fn pin_freely(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        match self.pin(node) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.open_directories.iter().for_each(|part| lock(part).clear());
                self.pin(node)
            }
            done => done,
        }
    }

    /// Hides what is below a name.
    pub(crate) fn cover(&self, site: &Site<'_>) -> Result<()> {
        match site.entry.covers {
            true => self.whiteouts()?.hide(site.upper.as_fd(), site.name),
            false => Ok(()),
        }
    }

    /// Undoes [`cover`](Self::cover), after what was to follow failed.
    pub(crate) fn undo_cover(&self, site: &Site<'_>) {
        if let (true, Some(whiteouts)) = (site.entry.covers, &self.whiteouts) {
            // If that fails too the file is not shown any more from the next mount on; what is told is the first failure.
            let _hidden = whiteouts.uncover(site.upper.as_fd(), site.name);
        }
    }

    /// From now on nothing is shown of a name.
    pub(crate) fn vacate(&self, site: &mut Site<'_>) -> Result<()> {
        let covers = site.entry.covers;
        let entry = Entry { whiteout: covers, covers, ..Entry::NOTHING };
        site.directory.names_mut()?.set(site.name, entry);
        Ok(())
    }

    /// What was on the writable branch is gone: the next file of that inode number is another.
    pub(crate) fn gone(&self, top: &Top) {
        if top.branch == 0
            && let Some(first) = self.branches.first()
        {
            self.numbers.drop_kept(first.device, top.inode);
        }
    }

    /// Takes note that a file on the writable branch loses a name, which may be its last.
    pub(crate) fn loses_name(&self, site: &Site<'_>, top: &Top) -> Result<bool> {
        let first = self.branch(0)?;
        let kept = top.branch == 0 && self.numbers.is_kept(first.device, top.inode);
        Ok(kept && stat_at(site.upper.as_fd(), site.name)?.stx_nlink == 1)
    }

    fn delete(&self, site: &Site<'_>, top: &Top) -> Result<()> {
        let last = self.loses_name(site, top)?;
        fs::unlinkat(&site.upper, site.name, AtFlags::empty())?;
        if last {
            self.gone(top);
        }
        Ok(())
    }

    /// Deletes a directory, or moves it where nobody sees it: then it answers with its name there.
    fn set_aside(&self, site: &Site<'_>) -> Result<Option<Vec<u8>>> {
        match fs::unlinkat(&site.upper, site.name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(None),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let rename = |aside: &[u8]| {
                    fs::renameat_with(&site.upper, site.name, &site.upper, aside, fs::RenameFlags::NOREPLACE)
                };
                self.whiteouts()?.aside(site.name, rename).map(Some)
            }
            Err(errno) => Err(errno),
        }
    }
}
