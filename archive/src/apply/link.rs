//! Finding what a path through links names, in the tree and nowhere else, while nothing is made.

use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat};
use rustix::io::Errno;

use super::cursor::{Cursor, Way};
use super::fault::{Attempt, failed};
use super::frame::DIRECTORY;
use super::name::{join, split};

const FINDING: &str = "finding the way of";

/// A directory that is the cursor's own or was opened on the way.
pub(super) enum Found<'c> {
    Open(BorrowedFd<'c>),
    Opened(OwnedFd),
}

impl Found<'_> {
    pub(super) fn into_owned(self) -> std::io::Result<OwnedFd> {
        match self {
            Self::Open(fd) => fd.try_clone_to_owned(),
            Self::Opened(fd) => Ok(fd),
        }
    }
}

impl AsFd for Found<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

/// What a path leads to.
pub(super) enum Lead<'c> {
    Directory(Found<'c>),
    /// Something on the way is neither directory nor link: what it is, and its path from the root.
    Blocked(Stat, Vec<u8>),
    Nowhere,
}

/// Opens the directory that a clean path names. Links on the way are followed as if the root was the root of the file
/// system; nothing is made.
pub(super) fn find<'c>(cursor: &'c Cursor, directory: &[u8]) -> Attempt<Lead<'c>> {
    let mut way = Way::default();
    let mut todo = Cow::Borrowed(directory);
    loop {
        let (start, reached, rest) = cursor.nearest(&todo);
        match walk(Found::Open(start), reached.to_vec(), rest, &mut way)? {
            Walked::Arrived(lead) => return Ok(lead),
            Walked::Turned(path) => todo = Cow::Owned(path),
        }
    }
}

enum Walked<'c> {
    Arrived(Lead<'c>),
    /// A link or a `..` leads to this path, of which the first part holds no link.
    Turned(Vec<u8>),
}

/// Goes down from `at`, whose path from the root is `reached`, until something leads elsewhere.
fn walk<'c>(mut at: Found<'c>, mut reached: Vec<u8>, path: &[u8], way: &mut Way) -> Attempt<Walked<'c>> {
    let mut position = 0;
    while position < path.len() {
        let end = path[position..]
            .iter()
            .position(|&byte| byte == b'/')
            .map_or(path.len(), |slash| position + slash);
        let name = &path[position..end];
        position = end + 1;
        let rest = path.get(position..).unwrap_or_default();
        match name {
            b"" | b"." => continue,
            b".." => {
                way.up()?;
                reached.truncate(split(&reached).0.len());
                return Ok(turn(&reached, &[rest]));
            }
            _ => {}
        }
        match rustix::fs::openat(&at, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => at = Found::Opened(fd),
            // A program would not find its way past what is missing, but other engines cancel the pair.
            Err(Errno::NOENT) => match rest.strip_prefix(b"..") {
                Some(after) if matches!(after.first(), None | Some(b'/')) => {
                    way.up()?;
                    return Ok(turn(&reached, &[after]));
                }
                _ => return Ok(Walked::Arrived(Lead::Nowhere)),
            },
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let Some(target) = read(at.as_fd(), name)? else {
                    let stat = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW);
                    let stat = stat.map_err(failed(FINDING))?;
                    return Ok(Walked::Arrived(Lead::Blocked(stat, join(&reached, name))));
                };
                way.link()?;
                let from = if target.starts_with(b"/") { &[] } else { &reached[..] };
                return Ok(turn(from, &[&target, rest]));
            }
            Err(errno) => return Err(failed(FINDING)(errno)),
        }
        if !reached.is_empty() {
            reached.push(b'/');
        }
        reached.extend_from_slice(name);
    }
    Ok(Walked::Arrived(Lead::Directory(at)))
}

fn turn<'c>(reached: &[u8], onward: &[&[u8]]) -> Walked<'c> {
    let path = onward.iter().fold(reached.to_vec(), |path, part| join(&path, part));
    let slashes = path.iter().take_while(|&&byte| byte == b'/').count();
    Walked::Turned(path[slashes..].to_vec())
}

fn read(dir: BorrowedFd<'_>, name: &[u8]) -> Attempt<Option<Vec<u8>>> {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(failed(FINDING)(errno)),
    }
}
