//! Further names of a file.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::copy_up::link_open;
use super::lookup::Found;
use super::names::{Entry, Top};
use super::node::Node;
use super::parents::restore_times;
use super::reach::{stat_at, stat_open};
use super::{Result, Union};

impl Union {
    /// Gives a file, which is no directory, another name. It is copied up before.
    pub fn link(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &[u8]) -> Result<Found> {
        if node.is_directory() {
            return Err(Errno::PERM);
        }
        drop(self.site(parent, name)?);
        self.copy_up(node, u64::MAX)?;
        let file = self.pin(node)?;
        let site = self.site(parent, name)?;
        link_open(file.as_fd(), site.upper.as_fd(), name)?;
        let stat = stat_at(site.upper.as_fd(), name)?;
        self.settle_in(site, &stat)
    }

    /// Makes a name in the writable branch that a file has below, if the file was copied up by another name.
    pub(crate) fn make_name(&self, parent: &Arc<Node>, name: &[u8], number: u64) -> Result<()> {
        let waits = |entry: &Entry| -> Result<bool> {
            let top = entry.top.as_ref().filter(|top| !self.is_writable(top.branch));
            Ok(top.map(|top| self.number_of(top)).transpose()? == Some(number))
        };
        if !waits(self.names_of(parent)?.names()?.get(name)?)? {
            return Ok(());
        }
        let upper = self.upper_directory(parent)?;
        let mut directory = self.change_names(parent)?;
        let mut entry = directory.names()?.get(name)?.clone();
        let links = self.pseudo_links()?;
        let (true, Some(inode)) = (waits(&entry)?, links.upper(number)) else { return Ok(()) };
        let around = stat_open(upper.as_fd())?;
        links.link(number, inode, &upper, name)?;
        restore_times(upper.as_fd(), &around);
        entry.top = entry.top.map(|top| Top::new(top.kind, 0, inode));
        entry.covers = true;
        directory.names_mut()?.set(name, entry);
        if let Some(node) = self.table.get(number) {
            node.place().add(parent, name);
        }
        drop(directory);
        links.lost(number);
        Ok(())
    }
}
