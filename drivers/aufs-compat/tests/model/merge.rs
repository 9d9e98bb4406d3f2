//! The rules by which branches become one tree, in the plainest form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::edits::reserved;
use crate::common::files::{chmod, chown, mkfifo, set_xattr, xattr};

pub(crate) struct Branch {
    pub(crate) root: PathBuf,
    /// Whether whiteouts count.
    pub(crate) whiteouts: bool,
}

/// Makes in an empty directory what the branches show, the topmost first.
pub(crate) fn merge(branches: &[Branch], to: &Path) {
    let dirs: Vec<_> = branches.iter().map(|branch| (branch.root.clone(), branch.whiteouts)).collect();
    let top = fs::metadata(&dirs[0].0).unwrap();
    directory(&dirs, to, &mut HashMap::new());
    attributes(&dirs[0].0, &top, to);
}

/// Files that were made, by their device and inode number.
type Made = HashMap<(u64, u64), PathBuf>;

/// What the directories that have one name hold.
fn directory(dirs: &[(PathBuf, bool)], to: &Path, made: &mut Made) {
    let mut shown: BTreeMap<OsString, Vec<(PathBuf, bool)>> = BTreeMap::new();
    // Whatever is below does not show.
    let mut ended = BTreeSet::new();
    for (dir, whiteouts) in dirs {
        let all: BTreeSet<OsString> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        for name in all.iter().filter(|name| *whiteouts && reserved(name)) {
            ended.insert(OsString::from(&name.to_str().unwrap()[4..]));
        }
        for name in
            all.iter().filter(|name| !reserved(name) && !ended.contains(*name)).cloned().collect::<Vec<_>>()
        {
            let is_dir = fs::symlink_metadata(dir.join(&name)).unwrap().is_dir();
            let places = shown.entry(name.clone()).or_default();
            if places.is_empty() || is_dir {
                places.push((dir.join(&name), *whiteouts));
            }
            if !is_dir {
                ended.insert(name);
            }
        }
        if *whiteouts && all.iter().any(|name| name == ".wh..wh..opq") {
            break;
        }
    }
    for (name, places) in shown {
        let (from, to) = (&places[0].0, to.join(name));
        let meta = fs::symlink_metadata(from).unwrap();
        if meta.is_dir() {
            fs::create_dir(&to).unwrap();
            directory(&places, &to, made);
        } else if let Some(first) = made.get(&(meta.dev(), meta.ino())) {
            fs::hard_link(first, &to).unwrap();
            continue;
        } else if meta.is_file() {
            fs::copy(from, &to).unwrap();
        } else if meta.is_symlink() {
            symlink(fs::read_link(from).unwrap(), &to).unwrap();
        } else {
            mkfifo(&to);
        }
        attributes(from, &meta, &to);
        made.insert((meta.dev(), meta.ino()), to);
    }
}

fn attributes(from: &Path, meta: &Metadata, to: &Path) {
    chown(to, meta.uid(), meta.gid());
    if !meta.is_symlink() {
        chmod(to, meta.mode() & 0o7777);
        for name in ["user.number", "user.random"] {
            if let Ok(value) = xattr(from, name) {
                set_xattr(to, name, &value);
            }
        }
    }
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
