//! Opaque directories in a merged tree: what the layers below have there is removed, what this layer has stays,
//! wherever in the archive the marker stands.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, Timespec};

use super::fault::{Attempt, failed};
use super::frame::{DIRECTORY, Frame};
use super::metadata::Target;
use super::remove;
use super::seen::Place;
use super::site::Site;

const CLEARING: &str = "clearing the opaque directory of";

/// Removes what is older than this run from `directory` and, since older things may also lie in directories that
/// this layer has in it, from those.
///
/// A directory is cleared once at the most: those that were, or that this run made, are noted.
pub(super) fn clear(directory: &Frame, site: &mut Site<'_>) -> Attempt {
    let mut todo = vec![(Vec::new(), directory.place)];
    while let Some((path, place)) = todo.pop() {
        let opened = open(directory.fd.as_fd(), &path)?;
        let dir = opened.as_ref().map_or(directory.fd.as_fd(), AsFd::as_fd);
        let stat = rustix::fs::fstat(dir).map_err(failed(CLEARING))?;
        let (kept, removed) = clear_one(dir, place, site)?;
        if removed {
            let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() };
            Target::Open(dir).set_timestamp(mtime)?;
        }
        for name in kept {
            let place = site.places.child(place, &name);
            if !site.is_opaque(place) {
                site.set_opaque(place);
                let below = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                todo.push((below, place));
            }
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
    // By a descriptor of its own: the position in the list is not the cursor's.
    let list = rustix::fs::openat(dir, ".", DIRECTORY, Mode::empty()).map_err(failed(CLEARING))?;
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut entries = RawDir::new(&list, &mut buffer);
    let (mut kept, mut old) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(failed(CLEARING))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if !site.is_made(site.places.child(place, name)) {
            old.push(name.to_vec());
        } else if is_directory(dir, entry.file_type(), name)? {
            kept.push(name.to_vec());
        }
    }
    for name in &old {
        remove::tree(dir, name, None)?;
    }
    Ok((kept, !old.is_empty()))
}

fn is_directory(dir: BorrowedFd<'_>, listed: FileType, name: &[u8]) -> Attempt<bool> {
    if listed != FileType::Unknown {
        return Ok(listed.is_dir());
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(CLEARING))?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}
