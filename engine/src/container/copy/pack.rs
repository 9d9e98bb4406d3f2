//! Files of a tree as members of an archive, whoever takes them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use mica_archive::{Entry, Kind, Time};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::place::{Origin, OriginKind};
use crate::{Error, Result};

/// File systems that hold the kernel's state and no files: `/proc`, `/sys`, control groups, terminals, message queues.
const NO_FILES: [i64; 6] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x1cd1, 0x1980_0202];

/// Whom the copies belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The owner of the original.
    Kept,
    /// Root.
    Root,
}

/// What takes a member and its content.
pub(super) type Put<'a> = &'a mut dyn FnMut(&Entry, &mut dyn Read) -> mica_archive::Result<()>;

/// Walks files by descriptors. Links are members, never followed.
pub(super) struct Packer<'a> {
    ownership: Ownership,
    put: Put<'a>,
    /// Files with several names that were put, and under which one.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(ownership: Ownership, put: Put<'a>) -> Self {
        Self { ownership, put, linked: HashMap::new() }
    }

    /// Puts the origin as a member called `name`, and all below it.
    pub(super) fn pack(mut self, origin: &Origin, name: &[u8]) -> Result<()> {
        match &origin.kind {
            OriginKind::Named(dir, last) => self.member(dir.as_fd(), last.as_encoded_bytes(), name, None),
            OriginKind::Directory(dir) if name == b"." => self.children(&reopen(dir)?, b""),
            OriginKind::Directory(dir) => {
                let dir = reopen(dir)?;
                let stat = fs::fstat(&dir).map_err(failed(name))?;
                self.put(&self.entry(dir.as_fd(), b".", &stat, name)?, &mut io::empty())?;
                self.children(&dir, name)
            }
            // Under a new name the directory itself is made too.
            OriginKind::Contents(dir) => {
                let dir = reopen(dir)?;
                if !name.is_empty() {
                    let stat = fs::fstat(&dir).map_err(failed(name))?;
                    self.put(&self.entry(dir.as_fd(), b".", &stat, name)?, &mut io::empty())?;
                }
                self.children(&dir, name)
            }
        }
    }

    fn put(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        Ok((self.put)(entry, content)?)
    }

    fn children(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<()> {
        let device = fs::fstat(dir).map_err(failed(path))?.st_dev;
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(failed(path))? {
            let name = entry.map_err(failed(path))?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { [path, b"/", &name].concat() };
            self.member(dir.as_fd(), &name, &below, Some(device))?;
        }
        Ok(())
    }

    fn member(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8], device: Option<u64>) -> Result<()> {
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It was removed since its name was read.
            Err(Errno::NOENT) if device.is_some() => return Ok(()),
            Err(e) => return Err(failed(path)(e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_socket() {
            return Ok(());
        }
        let mut entry = self.entry(dir, name, &stat, path)?;
        if stat.st_nlink > 1 && !kind.is_dir() {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                entry.kind = Kind::Hardlink(first.clone());
                return self.put(&entry, &mut io::empty());
            }
            self.linked.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        if kind.is_file() {
            return self.file(dir, name, entry);
        }
        self.put(&entry, &mut io::empty())?;
        if !kind.is_dir() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = fs::openat(dir, name, flags, Mode::empty()).map_err(failed(path))?;
        let is_mounted = device.is_some_and(|device| device != stat.st_dev);
        if is_mounted && NO_FILES.contains(&fs::fstatfs(&inside).map_err(failed(path))?.f_type) {
            return Ok(());
        }
        self.children(&inside, path)
    }

    /// A file may grow or shrink meanwhile: as many bytes are copied as it had when it was opened, zeroes for those that are gone.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &[u8], mut entry: Entry) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = fs::openat(dir, name, flags, Mode::empty()).map_err(failed(&entry.path))?;
        let stat = fs::fstat(&file).map_err(failed(&entry.path))?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(failed(&entry.path)(Errno::STALE));
        }
        let size = stat.st_size.cast_unsigned();
        entry.kind = Kind::File { size, sparse: None };
        self.put(&entry, &mut File::from(file).chain(io::repeat(0)).take(size))
    }

    fn entry(&self, dir: BorrowedFd<'_>, name: &[u8], stat: &Stat, path: &[u8]) -> Result<Entry> {
        let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
        let mut path = path.to_vec();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                path.push(b'/');
                Kind::Directory
            }
            FileType::Symlink => {
                let target = fs::readlinkat(dir, name, Vec::new()).map_err(failed(&path))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => Kind::CharDevice(major, minor),
            FileType::BlockDevice => Kind::BlockDevice(major, minor),
            FileType::Fifo => Kind::Fifo,
            _ => Kind::File { size: stat.st_size.cast_unsigned(), sparse: None },
        };
        let (uid, gid) = match self.ownership {
            Ownership::Kept => (stat.st_uid, stat.st_gid),
            Ownership::Root => (0, 0),
        };
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
        let mtime = Time { seconds: stat.st_mtime, nanoseconds };
        let xattrs = xattrs(dir, name).map_err(failed(&path))?;
        Ok(Entry { path, kind, mode: stat.st_mode & 0o7777, uid, gid, mtime, xattrs })
    }
}

/// A descriptor of the `O_PATH` kind is opened for reading.
fn reopen(dir: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(dir, ".", flags, Mode::empty()).map_err(failed(b"."))
}

/// What belongs to the file and not to the host: attributes of users, access lists, capabilities of programs.
fn xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Before Linux 6.13 no call takes a directory and a name; the name behind the descriptor's link is not followed.
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut list = vec![0; 64 << 10];
    let length = match fs::llistxattr(&path[..], &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    let travels = |name: &[u8]| {
        name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
            || name == b"security.capability"
            || name.starts_with(b"system.posix_acl_")
    };
    for name in list[..length].split(|&byte| byte == 0).filter(|name| travels(name)) {
        let mut value = vec![0; 64 << 10];
        let length = fs::lgetxattr(&path[..], name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

fn failed(path: &[u8]) -> impl FnOnce(Errno) -> Error {
    let path = path.escape_ascii().to_string();
    move |e| Error::io(|| format!("copy '{path}'"))(e.into())
}
