//! Random edits of a tree, among them those that change as little as possible of what is seen from outside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::Index;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags,
};

use crate::sys;

/// One edit. It chooses among what is there, and does nothing where the tree does not allow it.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Create(Place, u16),
    Mkdir(Place),
    Symlink(Place),
    Node(Place, u8),
    /// A socket, which no tarball has.
    Socket(Place),
    Link(Index, Place),
    Rename(Index, Place),
    Exchange(Index, Index),
    Remove(Index),
    Append(Index, u16),
    Truncate(Index, u16),
    /// Other bytes in the middle, and the time of modification as before.
    Patch(Index, u8),
    /// The same through memory.
    Scribble(Index, u8),
    Hole(Index),
    /// Another file of the same name, size and time, which is likely to get the same inode.
    Again(Index, u8),
    /// A directory in place of a file, or the reverse.
    Turn(Index),
    Chmod(Index, u16),
    Chown(Index, u8),
    Time(Index, u16),
    /// An attribute that fits into the inode, or one that does not.
    Attribute(Index, u8, bool),
    NoAttribute(Index),
    Acl(Index, u8),
    Read(Index),
    /// A name comes and goes, and the directory's time is put back.
    Flicker(Index),
}

/// A name in one of the directories that are there.
#[derive(Clone, Debug)]
pub(crate) struct Place(Index, u8);

fn place() -> impl Strategy<Value = Place> {
    (any::<Index>(), 0..12u8).prop_map(|(dir, name)| Place(dir, name))
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        4 => (place(), 0..20_000u16).prop_map(|(place, length)| Edit::Create(place, length)),
        3 => place().prop_map(Edit::Mkdir),
        1 => place().prop_map(Edit::Symlink),
        1 => (place(), any::<u8>()).prop_map(|(place, number)| Edit::Node(place, number)),
        1 => place().prop_map(Edit::Socket),
        2 => (index(), place()).prop_map(|(from, to)| Edit::Link(from, to)),
        6 => (index(), place()).prop_map(|(from, to)| Edit::Rename(from, to)),
        2 => (index(), index()).prop_map(|(one, other)| Edit::Exchange(one, other)),
        3 => index().prop_map(Edit::Remove),
        1 => (index(), any::<u16>()).prop_map(|(file, length)| Edit::Append(file, length)),
        1 => (index(), any::<u16>()).prop_map(|(file, length)| Edit::Truncate(file, length)),
        2 => (index(), any::<u8>()).prop_map(|(file, byte)| Edit::Patch(file, byte)),
        1 => (index(), any::<u8>()).prop_map(|(file, byte)| Edit::Scribble(file, byte)),
        1 => index().prop_map(Edit::Hole),
        2 => (index(), any::<u8>()).prop_map(|(file, byte)| Edit::Again(file, byte)),
        2 => index().prop_map(Edit::Turn),
        1 => (index(), any::<u16>()).prop_map(|(path, mode)| Edit::Chmod(path, mode)),
        1 => (index(), any::<u8>()).prop_map(|(path, owner)| Edit::Chown(path, owner)),
        1 => (index(), any::<u16>()).prop_map(|(path, time)| Edit::Time(path, time)),
        2 => (index(), any::<u8>(), any::<bool>())
            .prop_map(|(path, value, large)| Edit::Attribute(path, value, large)),
        1 => index().prop_map(Edit::NoAttribute),
        1 => (index(), any::<u8>()).prop_map(|(path, rights)| Edit::Acl(path, rights)),
        2 => index().prop_map(Edit::Read),
        1 => index().prop_map(Edit::Flicker),
    ]
}

/// What is in a tree, by kind.
struct Paths {
    dirs: Vec<PathBuf>,
    files: Vec<PathBuf>,
    /// All but the root.
    all: Vec<PathBuf>,
}

impl Paths {
    fn of(tree: &Path) -> io::Result<Self> {
        let mut paths = Self { dirs: vec![tree.to_owned()], files: Vec::new(), all: Vec::new() };
        let mut next = 0;
        while next < paths.dirs.len() {
            let entries: io::Result<Vec<_>> = fs::read_dir(&paths.dirs[next])?.collect();
            let mut entries = entries?;
            // In an order of their own, so that a script does the same once more.
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    paths.dirs.push(path.clone());
                } else if kind.is_file() {
                    paths.files.push(path.clone());
                }
                paths.all.push(path);
            }
            next += 1;
        }
        Ok(paths)
    }

    fn at(&self, place: &Place) -> PathBuf {
        place.0.get(self.dirs.as_slice()).join(format!("n{}", place.1))
    }

    fn any(&self, index: &Index) -> io::Result<&PathBuf> {
        chosen(index, &self.all)
    }

    fn file(&self, index: &Index) -> io::Result<&PathBuf> {
        chosen(index, &self.files)
    }
}

fn chosen<'a>(index: &Index, paths: &'a [PathBuf]) -> io::Result<&'a PathBuf> {
    if paths.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(index.get(paths)) }
}

impl Edit {
    fn names(&self, paths: &Paths, tree: &Path) -> io::Result<()> {
        match self {
            Self::Create(place, length) => fs::write(paths.at(place), pattern(*length as u8, *length)),
            Self::Mkdir(place) => fs::create_dir(paths.at(place)),
            Self::Symlink(place) => symlink("n1/n2", paths.at(place)),
            Self::Node(place, number) => {
                let mode = Mode::from_raw_mode(0o600);
                let device = rustix::fs::makedev(u32::from(*number % 4), 7);
                let kind = if number % 2 == 0 { FileType::CharacterDevice } else { FileType::Fifo };
                Ok(rustix::fs::mknodat(CWD, paths.at(place), kind, mode, device)?)
            }
            Self::Socket(place) => {
                let mode = Mode::from_raw_mode(0o600);
                Ok(rustix::fs::mknodat(CWD, paths.at(place), FileType::Socket, mode, 0)?)
            }
            Self::Link(from, to) => fs::hard_link(paths.any(from)?, paths.at(to)),
            Self::Rename(from, to) => fs::rename(paths.any(from)?, paths.at(to)),
            Self::Exchange(one, other) => {
                let (one, other) = (paths.any(one)?, paths.any(other)?);
                Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
            }
            Self::Remove(path) => remove(paths.any(path)?),
            Self::Again(file, byte) => again(paths.file(file)?, *byte),
            Self::Turn(path) => turn(paths.any(path)?),
            Self::Flicker(dir) => flicker(chosen(dir, &paths.dirs)?),
            _ => self.content(paths, tree),
        }
    }

    fn content(&self, paths: &Paths, tree: &Path) -> io::Result<()> {
        let writable = |file: &Index| OpenOptions::new().write(true).open(paths.file(file)?);
        match self {
            Self::Append(file, length) => {
                let file = writable(file)?;
                // With a hole in between.
                let end = file.metadata()?.len() + u64::from(*length);
                file.write_all_at(&pattern(7, *length / 8), end)
            }
            Self::Truncate(file, length) => writable(file)?.set_len(u64::from(*length)),
            Self::Patch(file, byte) => {
                let path = paths.file(file)?;
                let before = fs::metadata(path)?;
                writable(file)?.write_all_at(&[*byte], before.len() / 2)?;
                set_time(path, before.mtime(), before.mtime_nsec())
            }
            Self::Scribble(file, byte) => sys::scribble(paths.file(file)?, *byte),
            Self::Hole(file) => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(writable(file)?, how, 0, 4096)?)
            }
            Self::Read(file) => fs::read(paths.file(file)?).map(drop),
            _ => self.metadata(paths.any(self.subject()).map_or(tree, |path| path)),
        }
    }

    fn metadata(&self, path: &Path) -> io::Result<()> {
        let set =
            |name: &str, value: &[u8]| Ok(rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?);
        match self {
            Self::Chmod(_, mode) if !path.is_symlink() => {
                fs::set_permissions(path, fs::Permissions::from_mode(u32::from(mode & 0o7777 | 0o700)))
            }
            Self::Chown(_, owner) => lchown(path, Some(u32::from(*owner)), Some(5)),
            Self::Time(_, time) => set_time(path, i64::from(*time), 5),
            Self::Attribute(_, value, large) => set("user.a", &vec![*value; if *large { 3000 } else { 9 }]),
            Self::NoAttribute(_) => Ok(rustix::fs::lremovexattr(path, "user.a")?),
            Self::Acl(_, rights) => {
                let named = ("system.posix_acl_default", "system.posix_acl_access");
                set(if rights & 8 != 0 { named.0 } else { named.1 }, &acl(rights & 7))
            }
            _ => Ok(()),
        }
    }

    fn subject(&self) -> &Index {
        match self {
            Self::Chmod(path, _) | Self::Chown(path, _) | Self::Time(path, _) | Self::Acl(path, _) => path,
            Self::Attribute(path, ..) | Self::NoAttribute(path) => path,
            other => unreachable!("{other:?} is about no single path"),
        }
    }
}

/// Makes edits in a tree. Returns how many could be made.
pub(crate) fn play(edits: &[Edit], tree: &Path) -> usize {
    let mut made = 0;
    // Looking takes longer than the edits themselves.
    for some in edits.chunks(5) {
        let paths = Paths::of(tree).unwrap();
        made += some.iter().filter(|edit| edit.names(&paths, tree).is_ok()).count();
    }
    made
}

fn pattern(seed: u8, length: u16) -> Vec<u8> {
    (0..length).map(|at| seed.wrapping_add((at / 256) as u8)).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn again(path: &Path, byte: u8) -> io::Result<()> {
    let before = fs::metadata(path)?;
    let content = vec![byte; before.len().try_into().unwrap()];
    fs::remove_file(path)?;
    fs::write(path, content)?;
    fs::set_permissions(path, before.permissions())?;
    lchown(path, Some(before.uid()), Some(before.gid()))?;
    set_time(path, before.mtime(), before.mtime_nsec())
}

fn turn(path: &Path) -> io::Result<()> {
    let was_dir = fs::symlink_metadata(path)?.is_dir();
    remove(path)?;
    if was_dir {
        return fs::write(path, "a file now");
    }
    fs::create_dir(path)?;
    fs::write(path.join("n1"), "in a directory now")
}

fn flicker(dir: &Path) -> io::Result<()> {
    let before = fs::metadata(dir)?;
    File::create(dir.join("moment"))?;
    fs::remove_file(dir.join("moment"))?;
    set_time(dir, before.mtime(), before.mtime_nsec())
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds },
    };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The rights of user 1000 beside those of the owner, the group and others, as `linux/posix_acl_xattr.h` has them.
fn acl(rights: u8) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let rules =
        [(0x01, 7, NOBODY), (0x02, rights, 1000), (0x04, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, rights, who) in rules {
        value.extend(u16::to_le_bytes(tag));
        value.extend(u16::from(rights).to_le_bytes());
        value.extend(who.to_le_bytes());
    }
    value
}
