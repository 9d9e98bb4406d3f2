//! Paths of the container, resolved as the container would, from outside of it.
//!
//! The image is not trusted, and another container may change a shared volume meanwhile (CVE-2021-30465). So
//! a path is resolved once, below the root's descriptor, and what comes out is a descriptor that is used from
//! then on.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat,
};
use rustix::io::{Errno, Result, dup};

/// The number of links that the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// What to make where a path ends in nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// With mode 0755.
    Directory,
    /// Empty, with mode 0644.
    File,
}

/// Opens `path` as the container would resolve it with `root` as its `/`; links lead nowhere outside.
pub(crate) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed while the kernel walked past `..`; it says: try again (openat2(2)).
    for _ in 0..128 {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            answer => return answer,
        }
    }
    Err(Errno::AGAIN)
}

/// An `O_PATH` descriptor of `path` below `root`.
pub fn open_path(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH)
}

/// As [`open_path`], but makes what is missing: directories, and at the end a directory or an empty file.
pub fn open_or_make(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<OwnedFd> {
    match open_path(root, path) {
        Err(Errno::NOENT) => walk_and_make(root, path, missing),
        answer => answer,
    }
}

/// Walks name by name with a stack of descriptors, so that `..` and links cannot lead above `root`.
fn walk_and_make(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<OwnedFd> {
    let mut stack = vec![dup(root)?];
    let mut pending = components(path);
    let mut links = 0;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let parent = stack.last().ok_or(Errno::NOENT)?;
        let kind = if pending.is_empty() { missing } else { Missing::Directory };
        let next = open_or_make_one(parent.as_fd(), &name, kind)?;
        if file_type(next.as_fd())? != FileType::Symlink {
            stack.push(next);
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let target = OsString::from_vec(readlinkat(&next, "", Vec::new())?.into_bytes());
        if Path::new(&target).is_absolute() {
            stack.truncate(1);
        }
        let rest = std::mem::replace(&mut pending, components(Path::new(&target)));
        pending.extend(rest);
    }
    stack.pop().ok_or(Errno::NOENT)
}

fn open_or_make_one(parent: BorrowedFd<'_>, name: &OsStr, missing: Missing) -> Result<OwnedFd> {
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, look, Mode::empty()) {
        Err(Errno::NOENT) => {}
        answer => return answer,
    }
    let made = match missing {
        Missing::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Missing::File => {
            let make = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(parent, name, make, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => openat(parent, name, look, Mode::empty()),
        Err(error) => Err(error),
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

pub(crate) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    Ok(FileType::from_raw_mode(statat(fd, "", AtFlags::EMPTY_PATH)?.st_mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = openat(CWD, dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn a_missing_target_behind_an_absolute_link_is_made_inside_the_root() {
        let (dir, root) = root();
        symlink("/run/nested", dir.path().join("var")).unwrap();
        open_or_make(root.as_fd(), Path::new("/var/deep/er"), Missing::Directory).unwrap();
        assert!(dir.path().join("run/nested/deep/er").is_dir());
    }

    #[test]
    fn a_link_of_many_dots_stops_at_the_root() {
        let (dir, root) = root();
        symlink("../../../../../../escaped", dir.path().join("trap")).unwrap();
        open_or_make(root.as_fd(), Path::new("/trap/file"), Missing::File).unwrap();
        assert!(dir.path().join("escaped/file").is_file());
        assert!(!Path::new("/escaped").exists());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (dir, root) = root();
        symlink("b/x", dir.path().join("a")).unwrap();
        symlink("a/x", dir.path().join("b")).unwrap();
        let made = open_or_make(root.as_fd(), Path::new("/a/y"), Missing::Directory);
        assert_eq!(made.unwrap_err(), Errno::LOOP);
    }
}
