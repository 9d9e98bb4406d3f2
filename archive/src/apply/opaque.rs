//! What goes when a directory becomes opaque, while what this layer has there stays, wherever in the archive
//! the marker stands: in a merged tree what the layers below have, in overlay form the whiteouts that hid it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, Timespec, UTIME_NOW};

use super::fault::{Attempt, failed};
use super::frame::{DIRECTORY, Frame};
use super::metadata::{self, Metadata, Target};
use super::name::join;
use super::remove;
use super::seen::Place;
use super::site::{Site, is_whiteout};

const CLEARING: &str = "clearing the opaque directory of";

/// Removes what is stale from `directory` and, since there may be some too in directories that this layer has
/// in it, from those.
///
/// A directory is cleared once at the most: those that were, or that this run made, are noted.
pub(super) fn clear(directory: &Frame, site: &mut Site<'_>) -> Attempt {
    if !site.may_hold_stale() {
        return Ok(());
    }
    let mut todo = vec![(Vec::new(), directory.place)];
    while let Some((path, place)) = todo.pop() {
        let opened = open(directory.fd.as_fd(), &path)?;
        let dir = opened.as_ref().map_or(directory.fd.as_fd(), AsFd::as_fd);
        let stat = rustix::fs::fstat(dir).map_err(failed(CLEARING))?;
        let mut mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
        let (kept, mut changed) = clear_one(dir, place, site)?;
        for name in kept {
            let place = site.places.child(place, &name);
            if !site.is_opaque(place) || site.only_passed(place) {
                todo.push((join(&path, &name), place));
            }
        }
        if opened.is_some() {
            if site.only_passed(place) {
                // Its metadata are of what is hidden now.
                metadata::drop_xattrs_but(dir, &[])?;
                let metadata = Metadata { owner: Some(site.creator.owner()), ..Metadata::implied() };
                metadata.set(dir, site.rules, &path, &mut site.applied)?;
                (mtime.tv_nsec, changed) = (UTIME_NOW, true);
            }
            site.cleared(place);
        }
        if changed {
            Target::Open(dir).set_timestamp(mtime)?;
        }
    }
    Ok(())
}

/// Opens what this run went through already, so that none of the components is a link.
fn open(start: BorrowedFd<'_>, path: &[u8]) -> Attempt<Option<OwnedFd>> {
    let mut at: Option<OwnedFd> = None;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let dir = at.as_ref().map_or(start, AsFd::as_fd);
        at = Some(rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()).map_err(failed(CLEARING))?);
    }
    Ok(at)
}

/// Returns the directories that stay, and whether something was removed.
fn clear_one(dir: BorrowedFd<'_>, place: Place, site: &Site<'_>) -> Attempt<(Vec<Vec<u8>>, bool)> {
    let (mut kept, mut removed) = (Vec::new(), false);
    for_each(dir, |name, kind| {
        if site.is_stale(dir, name, site.places.child(place, name)).map_err(failed(CLEARING))? {
            removed = true;
            return remove::tree(dir, name, None);
        }
        if is_directory(dir, kind, name)? {
            kept.push(name.to_vec());
        }
        Ok(())
    })?;
    Ok((kept, removed))
}

/// Removes the whiteouts of overlay form from a directory.
pub(super) fn remove_whiteouts(dir: BorrowedFd<'_>) -> Attempt {
    for_each(dir, |name, _| {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(CLEARING))?;
        if is_whiteout(&stat) { remove::tree(dir, name, None) } else { Ok(()) }
    })
}

/// Calls `each` with the names in a directory, which it may remove: those that stay are listed all the same
/// (readdir(3p)).
fn for_each(dir: BorrowedFd<'_>, mut each: impl FnMut(&[u8], FileType) -> Attempt) -> Attempt {
    // By a descriptor of its own: the position in the list is not the cursor's.
    let own = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty()).map_err(failed(CLEARING))?;
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(&own, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed(CLEARING))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.file_type())?;
        }
    }
    Ok(())
}

fn is_directory(dir: BorrowedFd<'_>, listed: FileType, name: &[u8]) -> Attempt<bool> {
    if listed != FileType::Unknown {
        return Ok(listed.is_dir());
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(CLEARING))?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}
