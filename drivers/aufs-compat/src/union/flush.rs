//! Making the names in the writable branch that pseudo-links stand for.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{self, FileType};
use rustix::io::Errno;

use super::node::Node;
use super::pseudo_link::PseudoLinks;
use super::reach::stat_at;
use super::{Result, Union};

impl Union {
    /// The mount has ended.
    pub(crate) fn end(&self) {
        if let Err(errno) = self.flush_pseudo_links() {
            crate::session::report(&format!(
                "cannot make all names of the files that were copied up: {errno}; the next mount tries again"
            ));
        }
    }

    /// Makes all names in the writable branch that files have which were copied up, and drops their pseudo-links. The
    /// branches are then the same union without anything that only this process knew.
    pub fn flush_pseudo_links(&self) -> Result<()> {
        let Some(links) = &self.pseudo_links else { return Ok(()) };
        let waiting = links.copies();
        if waiting.is_empty() {
            return Ok(());
        }
        self.walk(&mut |union, node| union.make_names(node, &waiting))?;
        waiting.iter().try_for_each(|(&number, &inode)| links.drop_link(number, inode))
    }

    /// The same for what a crash left. It is known to which file below a copy belongs where both have one name, and else left
    /// alone: the pseudo-link may be the only name that it has.
    pub(crate) fn flush_left_over(&self) -> Result<()> {
        let Some(links) = &self.pseudo_links else { return Ok(()) };
        let left = left_over(links)?;
        if left.is_empty() {
            return Ok(());
        }
        let mut sure = HashMap::new();
        self.walk(&mut |union, node| union.recognise(node, &left, &mut sure))?;
        for (&number, &inode) in &sure {
            links.adopt(number, inode);
        }
        self.walk(&mut |union, node| union.make_names(node, &sure))?;
        sure.iter().try_for_each(|(&number, &inode)| links.drop_link(number, inode))
    }

    /// Calls `visit` with every directory of the union.
    fn walk(&self, visit: &mut dyn FnMut(&Self, &Arc<Node>) -> Result<()>) -> Result<()> {
        let mut waiting = vec![Arc::clone(&self.root)];
        while let Some(node) = waiting.pop() {
            visit(self, &node)?;
            let directory = self.names_of(&node)?;
            for (name, top) in directory.names()?.shown() {
                if top.is_directory() {
                    waiting.push(self.enter(&node, name, top, self.number_of(top)?, top.inode));
                }
            }
        }
        Ok(())
    }

    /// Makes the names in one directory.
    fn make_names(&self, node: &Arc<Node>, waiting: &HashMap<u64, u64>) -> Result<()> {
        let mut missing = Vec::new();
        {
            let directory = self.names_of(node)?;
            for (name, top) in directory.names()?.shown() {
                let number = self.number_of(top)?;
                if top.branch != 0 && !top.is_directory() && waiting.contains_key(&number) {
                    missing.push((name.to_vec(), number));
                }
            }
        }
        missing.iter().try_for_each(|(name, number)| self.make_name(node, name, *number))
    }

    /// Finds files of which the copy and what it is a copy of have the same name here.
    fn recognise(
        &self,
        node: &Arc<Node>,
        left: &HashMap<u64, u64>,
        sure: &mut HashMap<u64, u64>,
    ) -> Result<()> {
        let directory = self.names_of(node)?;
        let names = directory.names()?;
        for (name, top) in names.shown() {
            let Some(&number) = left.get(&top.inode).filter(|_| top.branch == 0 && !top.is_directory())
            else {
                continue;
            };
            if names.get(name)?.covers && self.number_below(node, &directory.branches, name)? == Some(number)
            {
                sure.insert(number, top.inode);
            }
        }
        Ok(())
    }

    /// The number of what would be shown without the writable branch.
    fn number_below(&self, node: &Arc<Node>, branches: &[u16], name: &[u8]) -> Result<Option<u64>> {
        for &branch in branches.iter().filter(|&&branch| branch != 0) {
            match stat_at(self.directory(node, branch)?.as_fd(), name) {
                Ok(stat) => return Ok(Some(self.numbers.of(self.branch(branch)?.device, stat.stx_ino))),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(None)
    }
}

/// The numbers of files that a crash left pseudo-links of, by the inode number of the copy.
fn left_over(links: &PseudoLinks) -> Result<HashMap<u64, u64>> {
    let mut left = HashMap::new();
    let mut entries = fs::Dir::read_from(&links.directory)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let Some((number, inode)) = PseudoLinks::parse(name) else { continue };
        let stat = stat_at(links.directory.as_fd(), name)?;
        let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        if stat.stx_ino == inode && stat.stx_nlink > 1 && !directory {
            left.insert(inode, number);
        }
    }
    Ok(left)
}
