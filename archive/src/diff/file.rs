//! A file of a tree that is walked: where it is, what it is, whether it equals another.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Entry, Error, Kind, Result, Time};

/// A file, by the directory it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    /// From the root of the layer, without a leading slash.
    pub(super) path: &'a [u8],
    pub(super) stat: &'a Stat,
}

impl At<'_> {
    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Another name of the same file may be in the tree.
    pub(super) fn has_links(&self) -> bool {
        self.stat.st_nlink > 1 && !self.is_dir()
    }

    pub(super) fn open_dir(&self) -> Result<OwnedFd> {
        self.open(OFlags::DIRECTORY)
    }

    /// Opens a regular file for reading. Should a pipe have taken its place, this does not wait for a writer.
    pub(super) fn open_file(&self) -> Result<OwnedFd> {
        self.open(OFlags::NONBLOCK)
    }

    fn open(&self, kind: OFlags) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
        fs::openat(self.dir, self.name, flags, Mode::empty()).map_err(self.failed("open"))
    }

    pub(super) fn link_target(&self) -> Result<Vec<u8>> {
        let target = fs::readlinkat(self.dir, self.name, Vec::new()).map_err(self.failed("read"))?;
        Ok(target.into_bytes())
    }

    /// The extended attributes that belong to the file and not to the host or to the union it is in, sorted.
    pub(super) fn xattrs(&self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let Some(names) = self.call(|path, buffer| fs::llistxattr(path, buffer))? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for name in names.split(|&byte| byte == 0).filter(|name| travels(name)) {
            if let Some(value) = self.call(|path, buffer| fs::lgetxattr(path, name, buffer))? {
                found.push((name.to_vec(), value));
            }
        }
        found.sort();
        Ok(found)
    }

    pub(super) fn xattr(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.call(|path, buffer| fs::lgetxattr(path, name, buffer))
    }

    /// Asks with a larger buffer until the answer fits. `None`: there is nothing.
    fn call(
        &self,
        ask: impl Fn(&[u8], rustix::buffer::SpareCapacity<'_, u8>) -> rustix::io::Result<usize>,
    ) -> Result<Option<Vec<u8>>> {
        // No system call takes a directory and a name for this before Linux 6.13; the link in /proc leads to the
        // directory, and the name behind it is not followed.
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name);
        let mut buffer = Vec::with_capacity(256);
        loop {
            match ask(&path, rustix::buffer::spare_capacity(&mut buffer)) {
                Ok(0) => return Ok(Some(Vec::new())),
                Ok(_) => return Ok(Some(buffer)),
                Err(Errno::RANGE) if buffer.capacity() < (1 << 16) => {
                    buffer = Vec::with_capacity(buffer.capacity() * 4);
                }
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(errno) => return Err(self.failed("read an attribute of")(errno)),
            }
        }
    }

    /// The file as a member of a layer; `None` for a socket.
    pub(super) fn entry(&self) -> Result<Option<Entry>> {
        let (major, minor) = (fs::major(self.stat.st_rdev), fs::minor(self.stat.st_rdev));
        let mut path = self.path.to_vec();
        let kind = match self.file_type() {
            FileType::RegularFile => Kind::File { size: self.stat.st_size.cast_unsigned(), sparse: None },
            FileType::Directory => {
                path.push(b'/');
                Kind::Directory
            }
            FileType::Symlink => Kind::Symlink(self.link_target()?),
            FileType::CharacterDevice => Kind::CharDevice(major, minor),
            FileType::BlockDevice => Kind::BlockDevice(major, minor),
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        Ok(Some(Entry {
            path,
            kind,
            mode: self.stat.st_mode & 0o7777,
            uid: self.stat.st_uid,
            gid: self.stat.st_gid,
            mtime: mtime(self.stat),
            xattrs: self.xattrs()?,
        }))
    }

    pub(super) fn failed(&self, doing: &str) -> impl FnOnce(Errno) -> Error {
        let doing = format!("{doing} '{}'", self.path.escape_ascii());
        move |errno| Error::Io { doing, source: io::Error::from(errno) }
    }
}

/// Attributes of the host (labels, measurements) and of overlayfs stay behind, and the form in which xfs shows the ACLs once
/// more (linux/fs/xfs/xfs_xattr.c).
fn travels(name: &[u8]) -> bool {
    let host = name.starts_with(b"security.") && name != b"security.capability";
    let union = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    !name.is_empty() && !host && !union && !name.starts_with(b"trusted.SGI_ACL_")
}

fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() }
}

/// Whether the file shows the same in both trees. Directories are compared without their names.
pub(super) fn same(one: &At<'_>, other: &At<'_>) -> Result<bool> {
    let (a, b) = (one.stat, other.stat);
    let untouched = a.st_ino == b.st_ino && a.st_ctime == b.st_ctime && a.st_ctime_nsec == b.st_ctime_nsec;
    let metadata = a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid;
    let time = mtime(a) == mtime(b);
    if !metadata || !time {
        return Ok(false);
    }
    if untouched && a.st_size == b.st_size {
        // Only a snapshot keeps the inode and its ctime; whatever touches a file moves its ctime, and does so in a later
        // tick of the kernel's clock than any of the parent's (`GraphDriver::commit`).
        return Ok(true);
    }
    let content = match one.file_type() {
        FileType::Directory => true,
        FileType::RegularFile => a.st_size == b.st_size && equal_content(one, other)?,
        FileType::Symlink => one.link_target()? == other.link_target()?,
        _ => a.st_rdev == b.st_rdev,
    };
    Ok(content && one.xattrs()? == other.xattrs()?)
}

/// Whether two directories have the same owner, mode and attributes; their times may differ.
pub(super) fn same_attributes(one: &At<'_>, other: &At<'_>) -> Result<bool> {
    let (a, b) = (one.stat, other.stat);
    let plain = a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid;
    Ok(plain && one.xattrs()? == other.xattrs()?)
}

fn equal_content(one: &At<'_>, other: &At<'_>) -> Result<bool> {
    const PIECE: usize = 64 * 1024;
    let (left, right) = (one.open_file()?, other.open_file()?);
    let mut pieces = (vec![0; PIECE], vec![0; PIECE]);
    let mut position = 0;
    loop {
        let read = fill(&left, &mut pieces.0, position).map_err(one.failed("read"))?;
        if read != fill(&right, &mut pieces.1, position).map_err(other.failed("read"))? {
            return Ok(false);
        }
        if pieces.0[..read] != pieces.1[..read] {
            return Ok(false);
        }
        if read < PIECE {
            return Ok(true);
        }
        position += read as u64;
    }
}

fn fill(file: &OwnedFd, buffer: &mut [u8], position: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// A name in a directory, and what the directory knows of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Named {
    pub(super) name: Vec<u8>,
    pub(super) inode: u64,
    pub(super) file_type: Option<bool>,
}

/// The names in a directory, in byte order.
pub(super) fn names(dir: &OwnedFd, path: &[u8]) -> Result<Vec<Named>> {
    let failed = |errno: Errno| Error::Io {
        doing: format!("read directory '{}'", path.escape_ascii()),
        source: errno.into(),
    };
    let mut found = Vec::new();
    for entry in Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let known = entry.file_type() != FileType::Unknown;
            let file_type = known.then(|| entry.file_type() == FileType::Directory);
            found.push(Named { name: name.to_vec(), inode: entry.ino(), file_type });
        }
    }
    found.sort();
    Ok(found)
}

/// The metadata of a name; `None` where there is none by now.
pub(super) fn look(dir: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => {
            Err(Error::Io { doing: format!("look at '{}'", path.escape_ascii()), source: errno.into() })
        }
    }
}

/// A path with a name behind it.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
