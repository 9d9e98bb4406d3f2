//! Making files.
//!
//! What is made is whole before it has its name: it has its owner, its mode and what it inherits. Only then is the whiteout
//! dropped that hid the name.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, RwLockWriteGuard};

use rustix::fs::{self, AtFlags, Dev, FileType, Gid, Mode, OFlags, Statx, Uid};
use rustix::io::Errno;

use super::copy_up::link_open;
use super::lookup::Found;
use super::name;
use super::names::{Directory, Entry, Top};
use super::node::{Node, Place};
use super::reach::{device_of, kind_of, open_directory, proc_path, reopen, stat_at, stat_open};
use super::start::cause;
use super::{Result, Union};
use crate::sys::umask::Umask;

/// Whose a new file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group, unless the directory says otherwise (setgid).
    pub gid: u32,
    /// What the mode is not to have, unless the directory says otherwise (a default ACL).
    pub umask: u32,
}

/// What is to be made, with its permissions.
#[derive(Clone, Copy, Debug)]
pub enum New<'a> {
    /// A directory.
    Directory(Mode),
    /// A symbolic link to this.
    Link(&'a CStr),
    /// A regular file that is not opened, a device with its number, a pipe or a socket.
    Node(FileType, Mode, Dev),
}

/// A file that was made, and is open for reading and writing.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub found: Found,
    /// The same, open.
    pub file: OwnedFd,
}

/// A name on the writable branch that is free, and stays so as long as this lives.
pub(crate) struct Site<'a> {
    pub(crate) parent: &'a Arc<Node>,
    pub(crate) name: &'a [u8],
    pub(crate) upper: Arc<OwnedFd>,
    pub(crate) directory: RwLockWriteGuard<'a, Directory>,
    pub(crate) entry: Entry,
}

impl Union {
    /// Makes a regular file and opens it for reading and writing.
    pub fn create(&self, parent: &Arc<Node>, name: &[u8], mode: Mode, owner: Owner) -> Result<Made> {
        let site = self.site(parent, name)?;
        let upper = site.upper.as_fd();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match owner.is_ours() {
            true => owner.masked(|| fs::openat(upper, name, flags, mode))?,
            false => match open_unnamed(upper, mode, owner, false) {
                Ok(file) => {
                    link_open(file.as_fd(), upper, name)?;
                    file
                }
                Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                    self.make_aside(
                        &site,
                        |aside| owner.masked(|| fs::openat(upper, aside, flags, mode)).map(drop),
                        owner,
                    )?;
                    fs::openat(upper, name, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?
                }
                Err(errno) => return Err(errno),
            },
        };
        let stat = stat_open(file.as_fd())?;
        let found = self.settle_in(site, &stat)?;
        Ok(Made { found, file })
    }

    /// Makes anything else.
    pub fn make(&self, parent: &Arc<Node>, name: &[u8], new: New<'_>, owner: Owner) -> Result<Found> {
        let site = self.site(parent, name)?;
        let upper = site.upper.as_fd();
        let put = |name: &[u8]| {
            owner.masked(|| match new {
                New::Directory(mode) => fs::mkdirat(upper, name, mode),
                New::Link(target) => fs::symlinkat(target, upper, name),
                New::Node(kind, mode, device) => fs::mknodat(upper, name, kind, mode, device),
            })
        };
        // A directory shows nothing of what was deleted, from the first moment on.
        let opaque = matches!(new, New::Directory(_)) && (site.entry.whiteout || site.entry.covers);
        match owner.is_ours() && !opaque {
            true => put(name)?,
            false => self.make_aside(&site, put, owner)?,
        }
        let stat = stat_at(site.upper.as_fd(), name)?;
        self.settle_in(site, &stat)
    }

    /// Makes a regular file without a name, open for reading and writing; with `unlinkable` it can never get one.
    /// `EOPNOTSUPP` where the file system of the branch has no such files.
    pub fn create_unnamed(
        &self,
        parent: &Arc<Node>,
        mode: Mode,
        owner: Owner,
        unlinkable: bool,
    ) -> Result<Made> {
        let upper = self.upper_directory(parent)?;
        let file = open_unnamed(upper.as_fd(), mode, owner, unlinkable)?;
        let stat = stat_open(file.as_fd())?;
        let place = Place::pinned(0, stat.stx_ino, Arc::new(reopen(file.as_fd(), OFlags::PATH)?));
        let number = self.numbers.of(device_of(&stat), stat.stx_ino);
        let node =
            self.table.get_or_insert(number, || Node::file(number, kind_of(&stat), place, &self.table));
        self.table.hold(&node);
        let stat = self.present(&node, stat, 0);
        Ok(Made { found: Found { node, stat }, file })
    }

    /// Where something is about to be made. `EEXIST` where something is.
    pub(crate) fn site<'a>(&self, parent: &'a Arc<Node>, name: &'a [u8]) -> Result<Site<'a>> {
        name::check(name)?;
        // Before anything is copied for nothing.
        if self.names_of(parent)?.names()?.top(name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let upper = self.upper_directory(parent)?;
        let directory = self.change_names(parent)?;
        let entry = directory.names()?.get(name)?.clone();
        if entry.top.is_some() {
            return Err(Errno::EXIST);
        }
        if entry.shadowed {
            mica_tree::remove(upper.as_fd(), name).map_err(|error| cause(&error))?;
        }
        Ok(Site { parent, name, upper, directory, entry })
    }

    /// Makes something under another name, and renames it when it is whole.
    fn make_aside(&self, site: &Site<'_>, put: impl FnMut(&[u8]) -> Result<()>, owner: Owner) -> Result<()> {
        let upper = site.upper.as_fd();
        let aside = self.whiteouts()?.aside(site.name, put)?;
        let finish = || {
            let stat = stat_at(upper, &aside)?;
            owner.give(upper, &aside, &stat)?;
            if kind_of(&stat) == FileType::Directory && (site.entry.whiteout || site.entry.covers) {
                let made = open_directory(upper, &*aside)?;
                self.whiteouts()?.make_opaque(made.as_fd())?;
            }
            fs::renameat(upper, &*aside, upper, site.name)
        };
        finish().inspect_err(|_| {
            // What stays is deleted with the directory.
            let _stays = mica_tree::remove(upper, &aside);
        })
    }

    /// Shows what was made.
    pub(crate) fn settle_in(&self, mut site: Site<'_>, stat: &Statx) -> Result<Found> {
        let upper = site.upper.as_fd();
        if site.entry.whiteout
            && let Err(errno) = self.whiteouts()?.uncover(upper, site.name)
        {
            // It stays hidden.
            let _hidden = mica_tree::remove(upper, site.name);
            return Err(errno);
        }
        let top = Top::new(kind_of(stat), 0, stat.stx_ino);
        let number = self.numbers.of(device_of(stat), stat.stx_ino);
        let node = self.enter(site.parent, site.name, &top, number, stat.stx_ino);
        let entry = Entry { top: Some(top), covers: site.entry.covers, ..Entry::NOTHING };
        site.directory.names_mut()?.set(site.name, entry);
        self.table.hold(&node);
        let stat = self.present(&node, *stat, 0);
        Ok(Found { node, stat })
    }
}

impl Owner {
    /// Whether a file that this process makes is theirs already.
    fn is_ours(self) -> bool {
        self.uid == 0 && self.gid == 0
    }

    /// Makes something with the umask.
    fn masked<T>(self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let _umask = Umask::set(self.umask)?;
        make()
    }

    /// Gives them a file that was just made, and its mode back, which loses setuid and setgid by that.
    fn give(self, directory: BorrowedFd<'_>, name: &[u8], made: &Statx) -> Result<()> {
        if self.is_ours() {
            return Ok(());
        }
        let gid = group(stat_open(directory)?, self.gid);
        fs::chownat(directory, name, Some(Uid::from_raw(self.uid)), gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if made.stx_mode & SPECIAL == 0 || kind_of(made) == FileType::Symlink {
            return Ok(());
        }
        fs::chmodat(directory, name, Mode::from_raw_mode(made.stx_mode.into()), AtFlags::empty())
    }
}

/// Setuid and setgid.
const SPECIAL: u16 = (libc::S_ISUID | libc::S_ISGID) as u16;

/// The group that a file gets in this directory; none if it has it already.
fn group(directory: Statx, gid: u32) -> Option<Gid> {
    (u32::from(directory.stx_mode) & libc::S_ISGID == 0).then(|| Gid::from_raw(gid))
}

fn open_unnamed(directory: BorrowedFd<'_>, mode: Mode, owner: Owner, unlinkable: bool) -> Result<OwnedFd> {
    let never = if unlinkable { OFlags::EXCL } else { OFlags::empty() };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | never;
    let file = owner.masked(|| fs::openat(directory, ".", flags, mode))?;
    if !owner.is_ours() {
        let made = stat_open(file.as_fd())?;
        let gid = group(stat_open(directory)?, owner.gid);
        fs::fchown(&file, Some(Uid::from_raw(owner.uid)), gid)?;
        if made.stx_mode & SPECIAL != 0 {
            fs::chmod(proc_path(file.as_fd()), Mode::from_raw_mode(made.stx_mode.into()))?;
        }
    }
    Ok(file)
}
