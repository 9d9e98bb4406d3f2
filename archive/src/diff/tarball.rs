//! Changes as the members of a layer tarball.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::fstat;

use super::ChangeKind;
use super::file::{At, join, look, same_attributes};
use super::list::Out;
use crate::tap::Tap;
use crate::writer::Writer;
use crate::{Entry, Error, Kind, Result, Time};

/// A file with several names, by device and inode number.
type Inode = (u64, u64);

/// Writes changes to an archive.
#[derive(Debug)]
pub(super) struct Tarball<'a, W, T> {
    archive: &'a mut Writer<W, T>,
    /// The tree that is walked.
    tree: &'a OwnedFd,
    /// Directories that are in the archive.
    listed: HashSet<Vec<u8>>,
    /// Files with several names that are in the archive, and under which one.
    written: HashMap<Inode, Vec<u8>>,
    /// Files with several names that did not change under these.
    passed: HashMap<Inode, Vec<Entry>>,
}

impl<'a, W: Write, T: Tap> Tarball<'a, W, T> {
    pub(super) fn new(archive: &'a mut Writer<W, T>, tree: &'a OwnedFd) -> Self {
        Self { archive, tree, listed: HashSet::new(), written: HashMap::new(), passed: HashMap::new() }
    }

    /// Writes the root directory where it is not as a new layer's would be.
    pub(super) fn root(&mut self, parent: Option<&OwnedFd>) -> Result<()> {
        let look = |dir: &OwnedFd| fstat(dir).map_err(io::Error::from).map_err(Error::io("look at the root"));
        let stat = look(self.tree)?;
        let at = At { dir: self.tree.as_fd(), name: b".", path: b".", stat: &stat };
        let usual = match parent {
            Some(parent) => {
                let stat = look(parent)?;
                same_attributes(&at, &At { dir: parent.as_fd(), name: b".", path: b".", stat: &stat })?
            }
            None => {
                (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o755, 0, 0) && at.xattrs()?.is_empty()
            }
        };
        match at.entry()? {
            Some(entry) if !usual => self.append(&entry),
            _ => Ok(()),
        }
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        self.archive.append(entry, &mut io::empty())
    }

    fn whiteout(&mut self, path: Vec<u8>) -> Result<()> {
        let kind = Kind::File { size: 0, sparse: None };
        let mtime = Time::default();
        self.append(&Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime, xattrs: Vec::new() })
    }

    /// Writes the names under which a file that is now in the archive was passed by, so that they stay one file.
    fn join_passed(&mut self, inode: Inode, target: &[u8]) -> Result<()> {
        for mut entry in self.passed.remove(&inode).unwrap_or_default() {
            self.list_directories(&entry.path)?;
            entry.kind = Kind::Hardlink(target.to_vec());
            self.append(&entry)?;
        }
        Ok(())
    }

    /// Writes the directories on the way to a path that are not in the archive. Without them other engines would make
    /// them with mode 0755 and owner root.
    fn list_directories(&mut self, path: &[u8]) -> Result<()> {
        let mut dir = self.tree.try_clone().map_err(Error::io("look at the root"))?;
        for (end, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
            let path = &path[..end];
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
            // It is gone, and the name with it.
            let Some(stat) = look(&dir, name, path)? else { return Ok(()) };
            let at = At { dir: dir.as_fd(), name, path, stat: &stat };
            if !self.listed.contains(path) {
                self.emit_dir(at.entry()?)?;
            }
            dir = at.open_dir()?;
        }
        Ok(())
    }
}

impl<W: Write, T: Tap> Out for Tarball<'_, W, T> {
    type Dir = Option<Entry>;

    fn dir(&mut self, at: &At<'_>, _: ChangeKind) -> Result<Option<Entry>> {
        at.entry()
    }

    fn emit_dir(&mut self, dir: Option<Entry>) -> Result<()> {
        let Some(entry) = dir else { return Ok(()) };
        self.append(&entry)?;
        self.listed.insert(entry.path.strip_suffix(b"/").unwrap_or(&entry.path).to_vec());
        Ok(())
    }

    fn file(&mut self, at: &At<'_>, _: ChangeKind) -> Result<()> {
        let Some(mut entry) = at.entry()? else {
            return Ok(());
        };
        let inode = (at.stat.st_dev, at.stat.st_ino);
        if at.has_links() {
            if let Some(first) = self.written.get(&inode) {
                entry.kind = Kind::Hardlink(first.clone());
                return self.append(&entry);
            }
            self.written.insert(inode, entry.path.clone());
        }
        match entry.kind {
            Kind::File { size, .. } if size > 0 => {
                self.archive.append(&entry, &mut File::from(at.open_file()?))?;
            }
            _ => self.append(&entry)?,
        }
        self.join_passed(inode, &entry.path)
    }

    fn wants_link(&self, at: &At<'_>) -> bool {
        self.written.contains_key(&(at.stat.st_dev, at.stat.st_ino))
    }

    fn unchanged_link(&mut self, at: &At<'_>) -> Result<()> {
        let Some(mut entry) = at.entry()? else {
            return Ok(());
        };
        let inode = (at.stat.st_dev, at.stat.st_ino);
        if let Some(first) = self.written.get(&inode) {
            entry.kind = Kind::Hardlink(first.clone());
            return self.append(&entry);
        }
        self.passed.entry(inode).or_default().push(entry);
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        self.whiteout(join(parent, &[b".wh.", name].concat()))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.whiteout(join(path, b".wh..wh..opq"))
    }
}
