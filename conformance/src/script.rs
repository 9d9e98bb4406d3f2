//! Random edits of a directory: the same in a driver's tree and in a plain directory, with the same answers.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::files;
use crate::outcome::{Doing, Verdict, ensure};

/// One edit. The paths are of a small set, so that edits meet each other.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Makes or empties a file, and writes so many bytes.
    Write(PathBuf, u16),
    /// Adds so many bytes to a file.
    Append(PathBuf, u8),
    Truncate(PathBuf, u8),
    Mkdir(PathBuf),
    /// A file, or a directory with all below it.
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf),
    Fifo(PathBuf),
    Chmod(PathBuf, u16),
    Chown(PathBuf, u8),
    Attribute(PathBuf, u8),
}

/// The edits of each layer, the lowest first.
pub(crate) type Script = Vec<Vec<Edit>>;

/// Scripts of up to five layers.
pub(crate) fn scripts(hard_links: bool) -> impl Strategy<Value = Script> {
    vec(vec(edit(hard_links), 0..12), 2..6)
}

fn path() -> impl Strategy<Value = PathBuf> {
    vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4).prop_map(|names| names.iter().collect())
}

fn edit(hard_links: bool) -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (path(), 0..9000u16).prop_map(|(path, length)| Edit::Write(path, length)),
        2 => (path(), any::<u8>()).prop_map(|(path, length)| Edit::Append(path, length)),
        1 => (path(), any::<u8>()).prop_map(|(path, length)| Edit::Truncate(path, length)),
        6 => path().prop_map(Edit::Mkdir),
        4 => path().prop_map(Edit::Remove),
        4 => (path(), path()).prop_map(|(from, to)| Edit::Rename(from, to)),
        2 => (path(), path()).prop_map(move |(from, to)| {
            if hard_links { Edit::Link(from, to) } else { Edit::Rename(from, to) }
        }),
        1 => path().prop_map(Edit::Symlink),
        1 => path().prop_map(Edit::Fifo),
        2 => (path(), 0..0o7777u16).prop_map(|(path, mode)| Edit::Chmod(path, mode | 0o700)),
        2 => (path(), any::<u8>()).prop_map(|(path, owner)| Edit::Chown(path, owner)),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Edit::Attribute(path, value)),
    ]
}

/// How a driver's tree may differ from a plain directory, as its capabilities say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// A rename of a directory may answer `EXDEV`, and does nothing then.
    pub(crate) exdev: bool,
    /// A file of a parent with several names breaks from them when it is touched.
    pub(crate) breaks_links: bool,
}

/// Makes the edits of one layer in both, and fails where the answers differ. `clock` counts edits: the time of what
/// they write.
pub(crate) fn play(edits: &[Edit], tree: &Path, plain: &Path, allowed: Allowed, clock: &mut i64) -> Verdict {
    let linked = if allowed.breaks_links { linked_inodes(plain)? } else { HashSet::new() };
    for edit in edits {
        *clock += 1;
        let found = edit.apply(tree, *clock);
        if allowed.exdev && matches!(edit, Edit::Rename(..)) && found == Err(Errno::XDEV) {
            continue;
        }
        if let Some(path) = edit.touches() {
            break_link(&plain.join(path), &linked)?;
        }
        let expected = edit.apply(plain, *clock);
        ensure!(found == expected, "{edit:?} answered {found:?}, in a plain directory {expected:?}");
    }
    Ok(())
}

impl Edit {
    /// The existing file that a union of directories brings up into the layer.
    fn touches(&self) -> Option<&Path> {
        match self {
            Self::Write(path, _)
            | Self::Append(path, _)
            | Self::Truncate(path, _)
            | Self::Rename(path, _)
            | Self::Link(path, _)
            | Self::Chmod(path, _)
            | Self::Chown(path, _)
            | Self::Attribute(path, _) => Some(path),
            Self::Mkdir(_) | Self::Remove(_) | Self::Symlink(_) | Self::Fifo(_) => None,
        }
    }

    fn apply(&self, root: &Path, clock: i64) -> Result<(), Errno> {
        let text = |length: usize| {
            clock.to_string().into_bytes().into_iter().cycle().take(length).collect::<Vec<u8>>()
        };
        let timed = |path: &Path| files::set_time(path, 1_600_000_000 + clock, clock).map_err(|_| Errno::IO);
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.mode(0o644).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
            (path.to_owned(), options)
        };
        match self {
            Self::Write(path, length) => {
                let (path, mut options) = open(&root.join(path));
                let mut file = number(options.write(true).create(true).truncate(true).open(&path))?;
                number(file.write_all(&text((*length).into())))?;
                timed(&path)
            }
            Self::Append(path, length) => {
                let (path, mut options) = open(&root.join(path));
                let mut file = number(options.append(true).open(&path))?;
                number(file.write_all(&text((*length).into())))?;
                timed(&path)
            }
            Self::Truncate(path, length) => {
                let (path, mut options) = open(&root.join(path));
                number(options.write(true).open(&path).and_then(|file| file.set_len((*length).into())))?;
                timed(&path)
            }
            Self::Mkdir(path) => number(fs::create_dir(root.join(path))),
            Self::Remove(path) => {
                let path = root.join(path);
                let directory = number(fs::symlink_metadata(&path))?.is_dir();
                number(if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) })
            }
            Self::Rename(from, to) => number(fs::rename(root.join(from), root.join(to))),
            Self::Link(from, to) => number(fs::hard_link(root.join(from), root.join(to))),
            Self::Symlink(path) => {
                number(symlink("nowhere", root.join(path)))?;
                timed(&root.join(path))
            }
            Self::Fifo(path) => {
                let path = root.join(path);
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
                timed(&path)
            }
            Self::Chmod(path, mode) => {
                let path = not_a_link(root.join(path))?;
                number(fs::set_permissions(path, fs::Permissions::from_mode((*mode).into())))
            }
            Self::Chown(path, owner) => {
                number(lchown(root.join(path), Some((*owner).into()), Some(u32::from(*owner) + 1)))
            }
            Self::Attribute(path, value) => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(not_a_link(root.join(path))?, "user.random", &[*value], flags)
            }
        }
    }
}

fn number<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn not_a_link(path: PathBuf) -> Result<PathBuf, Errno> {
    if number(fs::symlink_metadata(&path))?.is_symlink() { Err(Errno::LOOP) } else { Ok(path) }
}

/// The files of a tree that have several names.
fn linked_inodes(root: &Path) -> Verdict<HashSet<u64>> {
    let shown = crate::tree::Snapshot::of(root)?;
    let linked = shown.nodes.values().filter_map(|node| shown.nodes.get(node.same_as.as_deref()?));
    Ok(linked.map(|first| first.inode).collect())
}

/// Makes a name of such a file a file of its own.
fn break_link(path: &Path, linked: &HashSet<u64>) -> Verdict {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !linked.contains(&meta.ino()) || meta.nlink() < 2 {
        return Ok(());
    }
    let aside = path.with_file_name("broken-link");
    let doing = || format!("copy {}", path.display());
    if meta.is_file() {
        fs::copy(path, &aside).doing(doing)?;
        for (name, value) in crate::tree::xattrs(path)? {
            files::set_xattr(&aside, &name.to_string_lossy(), &value)?;
        }
    } else if meta.is_symlink() {
        symlink("nowhere", &aside).doing(doing)?;
    } else {
        files::fifo(&aside)?;
    }
    lchown(&aside, Some(meta.uid()), Some(meta.gid())).doing(doing)?;
    if !meta.is_symlink() {
        files::chmod(&aside, meta.mode() & 0o7777)?;
    }
    files::set_time(&aside, meta.mtime(), meta.mtime_nsec())?;
    files::rename(&aside, path)
}
