//! What the faults do to the trees of the plain driver.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// Everything in a tree, the deepest first.
pub(crate) fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            paths.extend(walk(&entry.path()));
        }
        paths.push(entry.path());
    }
    paths
}

/// What is not a link, the deepest first.
pub(crate) fn files(dir: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    walk(dir).into_iter().filter_map(|path| {
        let meta = fs::symlink_metadata(&path).unwrap();
        (!meta.is_symlink()).then_some((path, meta))
    })
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn remove(path: &Path) {
    let directory = fs::symlink_metadata(path).unwrap().is_dir();
    if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
}

pub(crate) fn empty(tree: &Path) {
    walk(tree).iter().for_each(|path| remove(path));
}

/// Each name of a file with several becomes a file of its own.
pub(crate) fn break_links(tree: &Path) {
    for (path, meta) in files(tree).filter(|(_, meta)| meta.is_file()) {
        if fs::symlink_metadata(&path).unwrap().nlink() > 1 {
            let aside = path.with_extension("aside");
            fs::copy(&path, &aside).unwrap();
            lchown(&aside, Some(meta.uid()), Some(meta.gid())).unwrap();
            fs::set_permissions(&aside, meta.permissions()).unwrap();
            set_time(&aside, meta.mtime(), meta.mtime_nsec());
            fs::rename(&aside, &path).unwrap();
        }
    }
}

pub(crate) fn truncate_times(tree: &Path) {
    for path in walk(tree) {
        let meta = fs::symlink_metadata(&path).unwrap();
        set_time(&path, meta.mtime(), 0);
    }
}

/// What `below` has and `tree` lacks comes back, where `wanted` says so of its path and there is a directory for it.
pub(crate) fn bring_back(below: &Path, tree: &Path, wanted: impl Fn(&Path) -> bool) {
    for old in walk(below).iter().rev() {
        let path = old.strip_prefix(below).unwrap();
        let new = tree.join(path);
        let place = new.parent().is_some_and(is_directory) && fs::symlink_metadata(&new).is_err();
        if place && wanted(path) {
            let meta = fs::symlink_metadata(old).unwrap();
            if meta.is_dir() {
                fs::create_dir(&new).unwrap();
            } else if meta.is_file() {
                fs::copy(old, &new).unwrap();
            }
        }
    }
}

pub(crate) fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}
