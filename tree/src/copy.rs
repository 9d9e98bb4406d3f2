//! A full copy of a tree, by several threads.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::data::Abilities;
use crate::error::{Error, Result, on};
use crate::{attributes, walk};

/// A file of the source and its copy, by inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// In the source.
    pub from: u64,
    /// In the copy.
    pub to: u64,
}

/// Copies the content and the attributes of the directory `from` into the directory `to`, which is empty.
///
/// Kept are: files with their holes, links, hard links among the copied files, devices, pipes, sockets, owners, modes,
/// all extended attributes, and times to the nanosecond. Content is shared with the source where the file system can
/// (`FICLONE`). At most `threads` threads work on it. After an error `to` holds a part of the copy.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, threads: usize) -> Result<()> {
    copy_with(from, to, threads, &Wishes::default())
}

/// The same without the files and directories whose names `left_out` picks.
pub fn copy_without(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    threads: usize,
    left_out: Picks<'_>,
) -> Result<()> {
    copy_with(from, to, threads, &Wishes { left_out: Some(left_out), copied: None })
}

/// The same, and tells which file became which, below the two directories; hard links are told once.
pub fn copy_paired(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    threads: usize,
    copied: &(dyn Fn(Pair) + Sync),
) -> Result<()> {
    copy_with(from, to, threads, &Wishes { left_out: None, copied: Some(copied) })
}

/// Whether a name is among those that are meant.
type Picks<'a> = &'a (dyn Fn(&[u8]) -> bool + Sync);

/// How a copy differs from the plain one.
#[derive(Default)]
struct Wishes<'a> {
    left_out: Option<Picks<'a>>,
    copied: Option<&'a (dyn Fn(Pair) + Sync)>,
}

fn copy_with(from: BorrowedFd<'_>, to: BorrowedFd<'_>, threads: usize, wishes: &Wishes<'_>) -> Result<()> {
    let root = to.try_clone_to_owned().map_err(|e| Error { doing: "open", path: ".".into(), source: e })?;
    let first =
        Work { from: walk::open_dir(from, b".")?, to: walk::open_dir(to, b".")?, path: PathBuf::new() };
    let copier = Copier {
        root,
        wishes,
        abilities: Abilities::default(),
        links: Mutex::default(),
        queue: Mutex::new(Queue { waiting: vec![first], idle: 0, busy: 0, failed: None }),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(|| copier.work());
        }
        copier.work();
    });
    match copier.queue.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A directory that was made, and is to be filled.
struct Work {
    from: OwnedFd,
    to: OwnedFd,
    path: PathBuf,
}

struct Queue {
    waiting: Vec<Work>,
    idle: usize,
    busy: usize,
    failed: Option<Error>,
}

struct Copier<'a> {
    root: OwnedFd,
    wishes: &'a Wishes<'a>,
    abilities: Abilities,
    /// Where the first name of each file with several was copied to, by device and inode of the source.
    links: Mutex<HashMap<(u64, u64), PathBuf>>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Copier<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(work) = self.next() {
            let base = work.path.clone();
            let done = self.directory(work);
            let mut queue = self.queue();
            queue.busy -= 1;
            if let Err(mut error) = done {
                error.path = base.join(error.path);
                queue.failed.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        queue.idle += 1;
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if let Some(work) = queue.waiting.pop() {
                queue.idle -= 1;
                queue.busy += 1;
                return Some(work);
            }
            if queue.busy == 0 {
                self.changed.notify_all();
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a directory to a thread that has nothing to do, or gives it back. So at most one directory a thread is open
    /// beside those on the way down.
    fn offer(&self, work: Work) -> Option<Work> {
        let mut queue = self.queue();
        if queue.idle <= queue.waiting.len() {
            return Some(work);
        }
        queue.waiting.push(work);
        self.changed.notify_one();
        None
    }

    fn directory(&self, work: Work) -> Result<()> {
        let Work { from, to, mut path } = work;
        let stat = fs::fstat(&from).map_err(on("read the metadata of"))?;
        let mut dir = Dir::new(from).map_err(on("read"))?;
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(on("read"))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || self.wishes.left_out.is_some_and(|left_out| left_out(name)) {
                continue;
            }
            path.push(OsStr::from_bytes(name));
            let source = dir.fd().map_err(on("read"))?;
            self.entry(source, to.as_fd(), name, &path).map_err(|error| error.below(name))?;
            path.pop();
        }
        let source = dir.fd().map_err(on("read"))?;
        attributes::set_open(source, to.as_fd(), &stat)
    }

    fn entry(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<()> {
        let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(on("read the metadata of"))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            fs::mkdirat(to, name, Mode::RWXU).map_err(on("create"))?;
            self.tell(to, name, &stat)?;
            let work = Work {
                from: walk::open_dir(from, name)?,
                to: walk::open_dir(to, name)?,
                path: path.to_owned(),
            };
            return match self.offer(work) {
                Some(work) => self.directory(work),
                None => Ok(()),
            };
        }
        if stat.st_nlink < 2 {
            self.single(from, to, name, &stat)?;
            return self.tell(to, name, &stat);
        }
        // Held over the copy, so that the second name of a file does not overtake the first.
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = links.get(&key) {
            return fs::linkat(&self.root, first, to, name, AtFlags::empty()).map_err(on("link"));
        }
        self.single(from, to, name, &stat)?;
        links.insert(key, path.to_owned());
        self.tell(to, name, &stat)
    }

    fn tell(&self, to: BorrowedFd<'_>, name: &[u8], from: &Stat) -> Result<()> {
        if let Some(copied) = self.wishes.copied {
            let copy = fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW).map_err(on("read the metadata of"))?;
            copied(Pair { from: from.st_ino, to: copy.st_ino });
        }
        Ok(())
    }

    fn single(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(from, to, name, stat),
            FileType::Symlink => {
                let target = fs::readlinkat(from, name, Vec::new()).map_err(on("read"))?;
                fs::symlinkat(target, to, name).map_err(on("create"))?;
            }
            other => fs::mknodat(to, name, other, Mode::RUSR, stat.st_rdev).map_err(on("create"))?,
        }
        attributes::set_named(from, to, name, stat)
    }

    fn file(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<()> {
        let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Not blocking: between the look and the open the file may have become a pipe.
        let reading = OFlags::RDONLY | OFlags::NONBLOCK | common;
        let source = fs::openat(from, name, reading, Mode::empty()).map_err(on("open"))?;
        let writing = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | common;
        let copy = fs::openat(to, name, writing, Mode::RUSR | Mode::WUSR).map_err(on("create"))?;
        self.abilities.copy(source.as_fd(), copy.as_fd(), stat.st_size.cast_unsigned())?;
        attributes::set_open(source.as_fd(), copy.as_fd(), stat)
    }
}
