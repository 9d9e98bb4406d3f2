//! Every file of a tree, parents before children.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::error::{Error, Result, on};

/// A file that a walk came by.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The directory it is in.
    pub dir: BorrowedFd<'a>,
    /// The inode number of that directory.
    pub parent: u64,
    /// Its name in it.
    pub name: &'a [u8],
    /// Its metadata.
    pub stat: &'a Stat,
}

/// Visits everything below the directory `root`, but not `root` itself. The visitor's error ends the walk.
pub fn walk(root: BorrowedFd<'_>, visit: &mut dyn FnMut(Visit<'_>) -> Result<()>) -> Result<()> {
    below(open_dir(root, b".")?, visit)
}

fn below(dir: OwnedFd, visit: &mut dyn FnMut(Visit<'_>) -> Result<()>) -> Result<()> {
    let parent = fs::fstat(&dir).map_err(on("read the metadata of"))?.st_ino;
    let mut dir = Dir::new(dir).map_err(on("read"))?;
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(on("read"))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let fd = dir.fd().map_err(on("read"))?;
        one(fd, parent, name, visit).map_err(|error| error.below(name))?;
    }
    Ok(())
}

fn one(
    dir: BorrowedFd<'_>,
    parent: u64,
    name: &[u8],
    visit: &mut dyn FnMut(Visit<'_>) -> Result<()>,
) -> Result<()> {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(on("read the metadata of"))?;
    visit(Visit { dir, parent, name, stat: &stat })?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        below(open_dir(dir, name)?, visit)?;
    }
    Ok(())
}

/// Opens a directory by its name in another.
pub(crate) fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::empty()).map_err(on("open"))
}

/// What a tree takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated.
    pub bytes: u64,
    /// Inodes, a file with several names counted once.
    pub inodes: u64,
}

/// Adds up what the tree takes, the directory `root` included.
pub fn usage(root: BorrowedFd<'_>) -> Result<Usage> {
    let mut total = Usage::default();
    let mut linked = HashSet::new();
    let mut add = |stat: &Stat| {
        let several = FileType::from_raw_mode(stat.st_mode) != FileType::Directory && stat.st_nlink > 1;
        if !several || linked.insert(stat.st_ino) {
            total.bytes += stat.st_blocks.cast_unsigned() * 512;
            total.inodes += 1;
        }
    };
    add(&fs::fstat(root).map_err(on("read the metadata of"))?);
    walk(root, &mut |visit| {
        add(visit.stat);
        Ok(())
    })?;
    Ok(total)
}
