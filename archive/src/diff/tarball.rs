//! Changes as the members of a layer tarball.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::fstat;

use super::ChangeKind;
use super::file::{At, join, same_attributes};
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
    /// Files with several names that are in the archive, and under which one.
    written: HashMap<Inode, Vec<u8>>,
    /// Files with several names that did not change under these.
    passed: HashMap<Inode, Vec<Entry>>,
}

impl<'a, W: Write, T: Tap> Tarball<'a, W, T> {
    pub(super) fn new(archive: &'a mut Writer<W, T>) -> Self {
        Self { archive, written: HashMap::new(), passed: HashMap::new() }
    }

    /// Writes the root directory where it is not as a new layer's would be.
    pub(super) fn root(&mut self, root: &OwnedFd, parent: Option<&OwnedFd>) -> Result<()> {
        let look = |dir: &OwnedFd| fstat(dir).map_err(io::Error::from).map_err(Error::io("look at the root"));
        let stat = look(root)?;
        let at = At { dir: root.as_fd(), name: b".", path: b".", stat: &stat };
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
            entry.kind = Kind::Hardlink(target.to_vec());
            self.append(&entry)?;
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
        dir.map_or(Ok(()), |entry| self.append(&entry))
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
