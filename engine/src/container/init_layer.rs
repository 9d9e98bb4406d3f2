//! The layer between an image and its containers: the mount points and empty files that every container needs.
//!
//! It exists so that what is mounted over them never shows up as a change of a container: a commit leaves them out.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::io::Errno;

use crate::{Error, Result};

const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: [&str; 4] = ["dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// Whether a path, relative to the root, belongs to the layer of mount points and not to a container.
///
/// A file in a directory of it, such as `dev/null.bak` or `etc/passwd`, is the container's own.
pub fn left_out(path: &[u8]) -> bool {
    const MOUNTED: [&str; 4] = ["dev/pts", "dev/shm", "proc", "sys"];
    FILES.iter().chain(&MOUNTED).any(|name| name.as_bytes() == path)
        || path == b"etc/mtab"
        || path == b".dockerenv"
}

/// Makes what is missing in a tree. What is there, of whatever kind, stays: it is the image's.
pub(super) fn fill(root: BorrowedFd<'_>) -> Result<()> {
    for path in DIRECTORIES {
        let place = Place::of(root, path)?;
        match place.map(|place| mkdirat(&place.dir, place.name, Mode::from_raw_mode(0o755))) {
            None | Some(Ok(()) | Err(Errno::EXIST)) => {}
            Some(Err(e)) => return Err(failed(path)(e)),
        }
    }
    for path in FILES {
        let Some(place) = Place::of(root, path)? else { continue };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&place.dir, place.name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(path)(e)),
        }
    }
    if let Some(place) = Place::of(root, "etc/mtab")? {
        match symlinkat("/proc/mounts", &place.dir, place.name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed("etc/mtab")(e)),
        }
    }
    Ok(())
}

/// A directory of the tree, and a name in it.
struct Place {
    dir: rustix::fd::OwnedFd,
    name: &'static str,
}

impl Place {
    /// Where a path is made; `None` where the image has no real directory above it, such as a link `/dev`: then there is
    /// nothing that could be made without following the image's links.
    fn of(root: BorrowedFd<'_>, path: &'static str) -> Result<Option<Self>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(root, parent, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(Some(Self { dir, name })),
            Err(Errno::LOOP | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(failed(path)(e)),
        }
    }
}

fn failed(path: &str) -> impl FnOnce(Errno) -> Error {
    let doing = format!("make '/{path}' for containers");
    move |e| Error::Io { doing, source: e.into() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use rustix::fs::{AtFlags, CWD, FileType, statat};

    use super::*;

    #[test]
    fn what_the_image_has_stays_and_its_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hosts"), "mine").unwrap();
        symlink(outside.path(), dir.path().join("dev")).unwrap();
        let root = openat(CWD, dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fill(root.as_fd()).unwrap();
        fill(root.as_fd()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("etc/hosts")).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let stat = statat(&root, "etc/mtab", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink);
    }

    #[test]
    fn only_the_mount_points_themselves_are_left_out() {
        for out in ["etc/hosts", "etc/mtab", "dev/shm", "proc"] {
            assert!(left_out(out.as_bytes()), "{out}");
        }
        for own in ["etc", "etc/hosts.bak", "dev", "dev/x", "procedure", "", "usr/etc/hosts"] {
            assert!(!left_out(own.as_bytes()), "{own}");
        }
    }
}
