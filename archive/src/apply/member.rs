//! Making what a member is: one function for each kind.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Extractor;
use super::fault::{Attempt, Fault, failed, printable, refuse};
use super::link::{self, Lead};
use super::metadata::{self, Target};
use super::name;
use super::site;
use crate::{Entry, Segment};

/// What `dev_t` holds between kernel and file system: 12 bits and 20.
const MAJOR_LIMIT: u32 = 1 << 12;
const MINOR_LIMIT: u32 = 1 << 20;
/// `PATH_MAX` without its NUL.
const TARGET_LIMIT: usize = 4095;

impl Extractor<'_> {
    /// Writes a regular file into the directory at hand.
    pub(super) fn file(
        &mut self,
        name: &[u8],
        entry: &Entry,
        size: u64,
        sparse: Option<&[Segment]>,
        content: &mut dyn Read,
    ) -> Attempt {
        let whole = [Segment { offset: 0, length: size }];
        let segments = sparse.unwrap_or(&whole);
        check_segments(segments, size)?;
        let fd = self.create(name, entry.mode)?;
        if sparse.is_some() {
            rustix::fs::ftruncate(&fd, size).map_err(failed("setting the size of"))?;
        }
        for segment in segments {
            self.write(&fd, *segment, sparse.is_some(), content)?;
        }
        let target = Target::Open(fd.as_fd());
        let inherits = self.cursor.here().inherits;
        if inherits || !self.site.creator.owns(entry.uid, entry.gid) {
            target.set_owner(entry.uid, entry.gid)?;
        }
        if inherits {
            target.drop_inherited_acl()?;
        }
        if inherits || !self.site.creator.keeps(entry.mode) {
            let mode = Mode::from_raw_mode(entry.mode & 0o7777);
            rustix::fs::fchmod(&fd, mode).map_err(failed("setting the mode of"))?;
        }
        target.set_xattrs(&entry.xattrs, self.site.rules, &entry.path, &mut self.site.applied)?;
        target.set_mtime(entry.mtime)?;
        self.content_here = true;
        Ok(())
    }

    fn create(&mut self, name: &[u8], mode: u32) -> Attempt<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Setuid and the like only once the content is there and has its owner.
        let mode = Mode::from_raw_mode(mode & 0o777);
        self.place(name, "creating", |dir, name| rustix::fs::openat(dir, name, flags, mode))
    }

    /// Makes something new by `make`, in place of whatever is there.
    fn place<T>(
        &mut self,
        name: &[u8],
        doing: &'static str,
        make: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Attempt<T> {
        self.site.uncover(self.cursor.here(), name)?;
        let mut made = make(&self.cursor.here().fd, name);
        if matches!(made, Err(Errno::EXIST)) {
            self.cursor.displace(name, &mut self.site)?;
            made = make(&self.cursor.here().fd, name);
        }
        let made = made.map_err(failed(doing))?;
        self.cursor.here_mut().changed = true;
        self.site.note_created(self.cursor.here(), name);
        Ok(made)
    }

    /// Copies the next `segment.length` bytes of `content`.
    fn write(&mut self, fd: &OwnedFd, segment: Segment, seek: bool, content: &mut dyn Read) -> Attempt {
        let Segment { mut offset, length } = segment;
        let mut left = length;
        while left > 0 {
            let wanted = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let buffer = &mut self.buffer[..wanted];
            content.read_exact(buffer).map_err(Fault::content)?;
            let mut rest = &*buffer;
            while !rest.is_empty() {
                let written =
                    if seek { rustix::io::pwrite(fd, rest, offset) } else { rustix::io::write(fd, rest) };
                let written = match written {
                    Err(Errno::INTR) => continue,
                    written => written.map_err(failed("writing"))?,
                };
                offset += written as u64;
                rest = &rest[written..];
            }
            left -= wanted as u64;
        }
        self.site.applied.bytes += length;
        Ok(())
    }

    /// Makes the directory, or takes over the one that is there with its content, and stays in it. Its metadata
    /// comes when the cursor leaves it.
    pub(super) fn directory(&mut self, name: &[u8], entry: &Entry) -> Attempt {
        self.cursor.open_or_make(name, &mut self.site)?;
        self.site.list_directory(self.cursor.here(), self.cursor.path());
        self.describe_here(entry);
        Ok(())
    }

    /// The directory at hand gets the metadata of `entry` in the end.
    pub(super) fn describe_here(&mut self, entry: &Entry) {
        self.cursor.here_mut().pending = Some(metadata::Metadata::of(entry));
    }

    pub(super) fn symlink(&mut self, name: &[u8], entry: &Entry, target: &[u8]) -> Attempt {
        if target.is_empty() || target.len() > TARGET_LIMIT || target.contains(&0) {
            return refuse(format!(
                "its target is empty, longer than {TARGET_LIMIT} bytes or contains a NUL byte"
            ));
        }
        self.place(name, "making the symbolic link", |dir, name| rustix::fs::symlinkat(target, dir, name))?;
        self.describe(name, entry, None)
    }

    /// Makes a second name of what is there: of a symbolic link, the link itself.
    pub(super) fn hardlink(&mut self, name: &[u8], target: &[u8]) -> Attempt {
        let mut clean = Vec::new();
        name::clean(target, true, &mut clean)?;
        let (parent, last) = name::split(&clean);
        let absent =
            || Fault::Refused(format!("it is a hard link to '{}', which is not there", printable(target)));
        if last.is_empty() || last.starts_with(name::WHITEOUT) {
            return Err(absent());
        }
        let Lead::Directory(found) = link::find(&self.cursor, parent)? else { return Err(absent()) };
        let stat = match rustix::fs::statat(&found, last, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(absent()),
            stat => stat.map_err(failed("finding the target of"))?,
        };
        if self.site.hides_by_device() && site::is_whiteout(&stat) {
            return Err(absent());
        }
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return refuse(format!("it is a hard link to the directory '{}'", printable(target)));
        }
        // To itself: it has that name already.
        let here = self.cursor.here();
        let same = last == name
            && rustix::fs::fstat(&found).ok().map(id) == rustix::fs::fstat(&here.fd).ok().map(id);
        if same {
            return Ok(());
        }
        let elsewhere = found.into_owned().map_err(|error| Fault::Io("opening the target of", error))?;
        self.place(name, "linking", |dir, name| {
            rustix::fs::linkat(&elsewhere, last, dir, name, AtFlags::empty())
        })?;
        // A second name is no inode.
        self.site.applied.inodes -= 1;
        Ok(())
    }

    pub(super) fn node(
        &mut self,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> Attempt {
        if major >= MAJOR_LIMIT || minor >= MINOR_LIMIT {
            return refuse(format!("no device has the number {major}:{minor}"));
        }
        let hides = kind == FileType::CharacterDevice && (major, minor) == (0, 0);
        if hides && self.site.hides_by_device() {
            let path = printable(&entry.path);
            self.site
                .applied
                .warn(format!("'{path}' is the character device 0:0, which overlayfs takes for a whiteout"));
        }
        let (device, mode) = (rustix::fs::makedev(major, minor), Mode::from_raw_mode(entry.mode & 0o777));
        self.place(name, "making the node", |dir, name| rustix::fs::mknodat(dir, name, kind, mode, device))?;
        self.describe(name, entry, Some(entry.mode))
    }

    /// Sets the metadata of something that cannot be opened.
    fn describe(&mut self, name: &[u8], entry: &Entry, mode: Option<u32>) -> Attempt {
        let here = self.cursor.here();
        let target = Target::Named(here.fd.as_fd(), name);
        if here.inherits || !self.site.creator.owns(entry.uid, entry.gid) {
            target.set_owner(entry.uid, entry.gid)?;
        }
        if let Some(mode) = mode {
            if here.inherits {
                target.drop_inherited_acl()?;
            }
            if here.inherits || !self.site.creator.keeps(mode) {
                metadata::set_mode_of_special(here.fd.as_fd(), name, mode & 0o7777)?;
            }
        }
        target.set_xattrs(&entry.xattrs, self.site.rules, &entry.path, &mut self.site.applied)?;
        target.set_mtime(entry.mtime)
    }
}

fn id(stat: rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn check_segments(segments: &[Segment], size: u64) -> Attempt {
    let mut end = 0;
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        match next {
            Some(next) if segment.offset >= end && next <= size => end = next,
            _ => return refuse("its map of holes is out of order or reaches beyond its size"),
        }
    }
    if size > i64::MAX.cast_unsigned() {
        return refuse(format!("it is {size} bytes long"));
    }
    Ok(())
}
