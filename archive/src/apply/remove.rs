//! Removing what a member replaces, however large or deep it is.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, SeekFrom};
use rustix::io::Errno;

use super::fault::{Attempt, Fault, failed};
use super::frame::DIRECTORY;

const REMOVING: &str = "removing what was in the place of";

/// Called with the path, from the removed name on, of each regular file before it goes.
pub(super) type Watcher<'w> = &'w mut dyn FnMut(&[u8]) -> Attempt;

/// Removes `name` in `dir`, a tree or anything else, and follows no link. That nothing is there is no error.
pub(super) fn tree(dir: BorrowedFd<'_>, name: &[u8], mut watcher: Option<Watcher<'_>>) -> Attempt {
    if let Some(watcher) = &mut watcher
        && is_regular(dir, name)?
    {
        watcher(name)?;
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => directory(dir, name, watcher),
        Err(errno) => Err(failed(REMOVING)(errno)),
    }
}

fn is_regular(dir: BorrowedFd<'_>, name: &[u8]) -> Attempt<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode).is_file()),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed(REMOVING)(errno)),
    }
}

/// Goes down and up again with a single descriptor, so depth costs no descriptors and no stack. The way up is
/// `..`, which is compared with what was left on the way down.
fn directory(dir: BorrowedFd<'_>, name: &[u8], mut watcher: Option<Watcher<'_>>) -> Attempt {
    let mut at = open(dir, name)?;
    let mut path = name.to_vec();
    let mut above: Vec<(u64, u64)> = Vec::new();
    loop {
        if let Some(child) = empty(at.as_fd(), &path, &mut watcher)? {
            above.push(identity(at.as_fd())?);
            at = open(at.as_fd(), &child)?;
            path.push(b'/');
            path.extend_from_slice(&child);
            continue;
        }
        let Some(parent) = above.pop() else {
            return rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR).map_err(failed(REMOVING));
        };
        at = open(at.as_fd(), b"..")?;
        if identity(at.as_fd())? != parent {
            return Err(Fault::Refused("what it replaces was moved while it was being removed".into()));
        }
        let cut = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        rustix::fs::unlinkat(&at, &path[cut + 1..], AtFlags::REMOVEDIR).map_err(failed(REMOVING))?;
        path.truncate(cut);
    }
}

/// Removes what a directory holds, up to the first directory that is not empty, whose name it returns.
fn empty(dir: BorrowedFd<'_>, path: &[u8], watcher: &mut Option<Watcher<'_>>) -> Attempt<Option<Vec<u8>>> {
    loop {
        // Again from the start until nothing is left: what a removal does to a position in the list is not
        // defined.
        rustix::fs::seek(dir, SeekFrom::Start(0)).map_err(failed(REMOVING))?;
        let mut removed = false;
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut entries = RawDir::new(dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed(REMOVING))?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            removed = true;
            if let Some(watcher) = watcher
                && is_regular(dir, name)?
            {
                watcher(&[path, b"/", name].concat())?;
            }
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(failed(REMOVING)(errno)),
            }
            match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(Errno::NOTEMPTY) => return Ok(Some(name.to_vec())),
                Err(errno) => return Err(failed(REMOVING)(errno)),
            }
        }
        if !removed {
            return Ok(None);
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &[u8]) -> Attempt<OwnedFd> {
    rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).map_err(failed(REMOVING))
}

fn identity(fd: BorrowedFd<'_>) -> Attempt<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).map_err(failed(REMOVING))?;
    Ok((stat.st_dev, stat.st_ino))
}
