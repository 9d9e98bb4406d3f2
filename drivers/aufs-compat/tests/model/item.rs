//! What a branch may hold.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};

use crate::common::edits::paths;
use crate::common::files::{chmod, chown, mkfifo, set_times, set_xattr};

/// Something on a branch. Where it cannot be, it is left out.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    File(PathBuf, u16),
    /// With an owner and a mode.
    Directory(PathBuf, u8),
    Symlink(PathBuf),
    Fifo(PathBuf),
    /// Another name.
    Link(PathBuf, PathBuf),
    Whiteout(PathBuf),
    /// A mark in a directory.
    Opaque(PathBuf),
}

pub(crate) fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        4 => (paths(), 0..9000u16).prop_map(|(path, length)| Item::File(path, length)),
        5 => (paths(), any::<u8>()).prop_map(|(path, owner)| Item::Directory(path, owner)),
        1 => paths().prop_map(Item::Symlink),
        1 => paths().prop_map(Item::Fifo),
        3 => (paths(), paths()).prop_map(|(from, to)| Item::Link(from, to)),
        3 => paths().prop_map(Item::Whiteout),
        1 => paths().prop_map(Item::Opaque),
    ];
    vec(item, 0..14)
}

pub(crate) fn make(branch: &Path, items: &[Item]) {
    for (number, item) in items.iter().enumerate() {
        item.make(branch, number as i64);
    }
}

impl Item {
    fn make(&self, branch: &Path, number: i64) {
        let time = |path: &Path| set_times(path, 1000, 1_500_000_000 + number);
        let free = |path: &Path| {
            let path = branch.join(path);
            let fits = fs::symlink_metadata(&path).is_err()
                && path.parent().is_some_and(|dir| fs::create_dir_all(dir).is_ok());
            fits.then_some(path)
        };
        match self {
            Self::File(path, length) => {
                let Some(path) = free(path) else { return };
                fs::write(&path, vec![b'0' + number as u8; (*length).into()]).unwrap();
                chmod(&path, 0o644);
                set_xattr(&path, "user.number", &[number as u8]);
                time(&path);
            }
            Self::Directory(path, owner) => {
                let Some(path) = free(path) else { return };
                fs::create_dir(&path).unwrap();
                chown(&path, u32::from(*owner), 1);
                chmod(&path, 0o755);
            }
            Self::Symlink(path) => {
                let Some(path) = free(path) else { return };
                symlink(format!("of-{number}"), &path).unwrap();
                time(&path);
            }
            Self::Fifo(path) => {
                let Some(path) = free(path) else { return };
                mkfifo(&path);
                time(&path);
            }
            Self::Link(from, to) => {
                let Some(to) = free(to) else { return };
                // It is no file, or not there.
                let _ = fs::hard_link(branch.join(from), to);
            }
            Self::Whiteout(path) => {
                let name = format!(".wh.{}", path.file_name().unwrap().display());
                let Some(path) = free(&path.with_file_name(name)) else { return };
                fs::write(path, "").unwrap();
            }
            Self::Opaque(path) => {
                let Some(path) = free(&path.join(".wh..wh..opq")) else { return };
                fs::write(path, "").unwrap();
            }
        }
    }
}
