//! Random edits of a directory, which a union and a plain directory must answer alike.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags, utimensat,
};
use rustix::io::Errno;

use super::files::{Dice, names, rename_with};

/// One edit. What it writes has a time that it sets, so that two trees can be compared by that.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Makes or empties a file, and writes so many bytes.
    Write(PathBuf, u16),
    /// Writes a byte somewhere in a file.
    Patch(PathBuf, u16),
    Append(PathBuf, u8),
    Truncate(PathBuf, u16),
    Mkdir(PathBuf),
    /// A file or an empty directory.
    Remove(PathBuf),
    /// A file, or a directory with all below it.
    RemoveAll(PathBuf),
    Rename(PathBuf, PathBuf, Way),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf),
    Fifo(PathBuf),
    Chmod(PathBuf, u16),
    Chown(PathBuf, u8),
    Attribute(PathBuf, Option<u8>),
    /// Lists a directory: the answer is the names.
    List(PathBuf),
    /// Reads a file: the answer is what it holds.
    Read(PathBuf),
    /// Deletes a file that is open, changes it, and looks at it: the answer is what it held.
    Drop(PathBuf),
}

/// How to rename.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Replace,
    Keep,
    Exchange,
}

impl Way {
    fn flags(self) -> RenameFlags {
        match self {
            Self::Replace => RenameFlags::empty(),
            Self::Keep => RenameFlags::NOREPLACE,
            Self::Exchange => RenameFlags::EXCHANGE,
        }
    }
}

/// What an edit says.
pub(crate) type Answer = Result<Vec<String>, Errno>;

/// Paths of few names, so that edits meet each other.
pub(crate) fn paths() -> impl Strategy<Value = PathBuf> {
    vec(select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.iter().collect())
}

pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    let way = || select(vec![Way::Replace, Way::Replace, Way::Replace, Way::Keep, Way::Exchange]);
    prop_oneof![
        4 => (paths(), 0..9000u16).prop_map(|(path, length)| Edit::Write(path, length)),
        2 => (paths(), 0..9000u16).prop_map(|(path, at)| Edit::Patch(path, at)),
        2 => (paths(), any::<u8>()).prop_map(|(path, length)| Edit::Append(path, length)),
        1 => (paths(), 0..9000u16).prop_map(|(path, length)| Edit::Truncate(path, length)),
        5 => paths().prop_map(Edit::Mkdir),
        3 => paths().prop_map(Edit::Remove),
        2 => paths().prop_map(Edit::RemoveAll),
        5 => (paths(), paths(), way()).prop_map(|(from, to, way)| Edit::Rename(from, to, way)),
        3 => (paths(), paths()).prop_map(|(from, to)| Edit::Link(from, to)),
        1 => paths().prop_map(Edit::Symlink),
        1 => paths().prop_map(Edit::Fifo),
        2 => (paths(), 0..0o7777u16).prop_map(|(path, mode)| Edit::Chmod(path, mode | 0o600)),
        2 => (paths(), any::<u8>()).prop_map(|(path, owner)| Edit::Chown(path, owner)),
        2 => (paths(), any::<Option<u8>>()).prop_map(|(path, value)| Edit::Attribute(path, value)),
        1 => paths().prop_map(Edit::List),
        1 => paths().prop_map(Edit::Read),
        1 => paths().prop_map(Edit::Drop),
    ]
}

impl Edit {
    /// One by the dice. The first name of each path is one of `tops`.
    pub(crate) fn thrown(dice: &mut Dice, tops: &[String]) -> Self {
        let mut path = || {
            let mut path = PathBuf::from(dice.pick(tops));
            for _ in 0..dice.below(3) {
                path.push(dice.pick(&["a", "b", "c", "d", "e"]));
            }
            path
        };
        let (path, other) = (path(), path());
        let number = dice.next();
        match dice.below(36) {
            0..4 => Self::Write(path, number as u16 % 9000),
            4..6 => Self::Patch(path, number as u16 % 9000),
            6..8 => Self::Append(path, number as u8),
            8 => Self::Truncate(path, number as u16 % 9000),
            9..14 => Self::Mkdir(path),
            14..17 => Self::Remove(path),
            17 => Self::RemoveAll(path),
            18..22 => Self::Rename(path, other, Way::Replace),
            22 => Self::Rename(path, other, *dice.pick(&[Way::Keep, Way::Exchange])),
            23..26 => Self::Link(path, other),
            26 => Self::Symlink(path),
            27 => Self::Fifo(path),
            28..30 => Self::Chmod(path, number as u16 & 0o7777 | 0o600),
            30 => Self::Chown(path, number as u8),
            31 => Self::Attribute(path, (number & 256 == 0).then_some(number as u8)),
            32 => Self::List(path),
            33..35 => Self::Read(path),
            _ => Self::Drop(path),
        }
    }

    /// Makes the edit in both, and fails where the answers differ. A directory of the union that cannot be renamed stays in
    /// both where it is.
    pub(crate) fn play(&self, union: &Path, plain: &Path, clock: i64) {
        let renamed: &[&PathBuf] = match self {
            Self::Rename(from, to, Way::Exchange) => &[from, to],
            Self::Rename(from, ..) => &[from],
            _ => &[],
        };
        let moves_a_directory = renamed.iter().any(|path| plain.join(path).is_dir());
        let found = self.apply(union, clock);
        if found == Err(Errno::XDEV) && moves_a_directory {
            return;
        }
        let expected = self.apply(plain, clock);
        assert_eq!(found, expected, "{self:?}");
    }

    pub(crate) fn apply(&self, root: &Path, clock: i64) -> Answer {
        let at = |path: &Path| root.join(path);
        match self {
            Self::Write(path, length) => {
                let mut file = open(&at(path), OpenOptions::new().write(true).create(true).truncate(true))?;
                number(file.write_all(&text(clock, (*length).into())))?;
                timed(&at(path), clock)?;
            }
            Self::Patch(path, offset) => {
                let file = open(&at(path), OpenOptions::new().write(true))?;
                number(file.write_all_at(b"#", (*offset).into()))?;
                timed(&at(path), clock)?;
            }
            Self::Append(path, length) => {
                let mut file = open(&at(path), OpenOptions::new().append(true))?;
                number(file.write_all(&text(clock, (*length).into())))?;
                timed(&at(path), clock)?;
            }
            Self::Truncate(path, length) => {
                let file = open(&at(path), OpenOptions::new().write(true))?;
                number(file.set_len((*length).into()))?;
                timed(&at(path), clock)?;
            }
            Self::Mkdir(path) => number(fs::create_dir(at(path)))?,
            Self::Remove(path) => {
                let directory = number(fs::symlink_metadata(at(path)))?.is_dir();
                number(if directory { fs::remove_dir(at(path)) } else { fs::remove_file(at(path)) })?;
            }
            Self::RemoveAll(path) => {
                let directory = number(fs::symlink_metadata(at(path)))?.is_dir();
                number(if directory { fs::remove_dir_all(at(path)) } else { fs::remove_file(at(path)) })?;
            }
            Self::Rename(from, to, way) => rename_with(&at(from), &at(to), way.flags())?,
            Self::Link(from, to) => number(fs::hard_link(at(from), at(to)))?,
            Self::Symlink(path) => {
                number(symlink(format!("nowhere-{clock}"), at(path)))?;
                timed(&at(path), clock)?;
            }
            Self::Fifo(path) => {
                rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::from_raw_mode(0o640), 0)?;
                timed(&at(path), clock)?;
            }
            Self::Chmod(path, mode) => {
                let mode = Mode::from_raw_mode((*mode).into());
                rustix::fs::chmodat(CWD, no_link(at(path))?, mode, AtFlags::empty())?;
            }
            Self::Chown(path, owner) => {
                number(lchown(at(path), Some((*owner).into()), Some(u32::from(*owner) + 1)))?;
            }
            Self::Attribute(path, value) => attribute(&no_link(at(path))?, *value)?,
            Self::List(path) => {
                number(fs::read_dir(at(path)))?;
                return Ok(names(at(path)));
            }
            Self::Read(path) => {
                let file = open(&at(path), OpenOptions::new().read(true))?;
                return Ok(vec![number(io::read_to_string(file))?]);
            }
            Self::Drop(path) => return dropped(&at(path)),
        }
        Ok(Vec::new())
    }
}

fn text(clock: i64, length: usize) -> Vec<u8> {
    clock.to_string().into_bytes().into_iter().cycle().take(length).collect()
}

fn timed(path: &Path, clock: i64) -> Result<(), Errno> {
    let time = Timespec { tv_sec: 1_600_000_000 + clock, tv_nsec: clock % 1_000_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Opens a file, and nothing else: a fifo would block.
fn open(path: &Path, options: &mut OpenOptions) -> Result<fs::File, Errno> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        return Err(Errno::NXIO);
    }
    number(options.mode(0o644).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path))
}

fn attribute(path: &Path, value: Option<u8>) -> Result<(), Errno> {
    match value {
        Some(value) => rustix::fs::lsetxattr(path, "user.random", &[value], XattrFlags::empty()),
        None => rustix::fs::lremovexattr(path, "user.random"),
    }
}

fn dropped(path: &Path) -> Answer {
    let mut file = open(path, OpenOptions::new().read(true).append(true))?;
    number(fs::remove_file(path))?;
    number(file.write_all(b"more"))?;
    let mut content = vec![0; number(file.metadata())?.len() as usize];
    number(file.read_exact_at(&mut content, 0))?;
    // It may have other names, which shall not differ by the moment of the write.
    let time = Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 };
    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(vec![String::from_utf8_lossy(&content).into_owned()])
}

fn no_link(path: PathBuf) -> Result<PathBuf, Errno> {
    if number(fs::symlink_metadata(&path))?.is_symlink() { Err(Errno::LOOP) } else { Ok(path) }
}

fn number<T>(result: io::Result<T>) -> Result<T, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Whether AUFS keeps a name for itself.
pub(crate) fn reserved(name: &OsStr) -> bool {
    std::os::unix::ffi::OsStrExt::as_bytes(name).starts_with(b".wh.")
}
