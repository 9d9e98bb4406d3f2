//! Hiding what is below.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::name::{self, BASE, OPAQUE};
use super::reach::{kind_of, stat_at};
use super::{Result, lock};

const MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// Makes and removes whiteouts on the writable branch. They are links to one empty file in its root.
#[derive(Debug)]
pub(crate) struct Whiteouts {
    root: Arc<OwnedFd>,
    /// Held while the file that they are links to is replaced.
    replacing: Mutex<()>,
    count: AtomicU16,
}

impl Whiteouts {
    pub(crate) fn open(root: &Arc<OwnedFd>) -> Result<Self> {
        let whiteouts = Self { root: Arc::clone(root), replacing: Mutex::new(()), count: AtomicU16::new(0) };
        match make(root.as_fd(), BASE) {
            Ok(()) => Ok(whiteouts),
            // What a whiteout is a link to must be able to be one.
            Err(Errno::EXIST) => match kind_of(&stat_at(root.as_fd(), BASE)?) {
                FileType::RegularFile => Ok(whiteouts),
                _ => Err(Errno::INVAL),
            },
            Err(errno) => Err(errno),
        }
    }

    /// Hides a name. Whatever hid it before does so still.
    pub(crate) fn hide(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match self.put(directory, &name::whiteout(name)) {
            Err(Errno::EXIST) => Ok(()),
            done => done,
        }
    }

    /// Hides a name no more.
    pub(crate) fn uncover(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match fs::unlinkat(directory, name::whiteout(name), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Hides everything that is below a directory.
    pub(crate) fn make_opaque(&self, directory: BorrowedFd<'_>) -> Result<()> {
        match self.put(directory, OPAQUE) {
            Err(Errno::EXIST) => Ok(()),
            done => done,
        }
    }

    /// Makes something, or moves it, where nobody sees it; answers with what it is called there. `make` is called with one
    /// name after the other until there is none like it.
    pub(crate) fn aside(&self, name: &[u8], mut make: impl FnMut(&[u8]) -> Result<()>) -> Result<Vec<u8>> {
        for _ in 0..=u16::MAX {
            let aside = name::temporary(name, self.count.fetch_add(1, Ordering::Relaxed));
            match make(&aside) {
                Err(Errno::EXIST | Errno::NOTEMPTY) => {}
                done => return done.map(|()| aside),
            }
        }
        Err(Errno::EXIST)
    }

    fn put(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match self.link(directory, name) {
            Err(Errno::MLINK) => {
                // Another thread may have replaced it meanwhile.
                let _replacing = lock(&self.replacing);
                match self.link(directory, name) {
                    Err(Errno::MLINK) => {
                        let fresh = self.aside(b"base", |name| make(self.root.as_fd(), name))?;
                        fs::renameat(&self.root, &*fresh, &self.root, BASE)?;
                        self.link(directory, name)
                    }
                    done => done,
                }
            }
            // The file is missing, or the file system knows no links.
            Err(Errno::NOENT | Errno::PERM | Errno::OPNOTSUPP | Errno::XDEV) => make(directory, name),
            done => done,
        }
    }

    fn link(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        fs::linkat(&self.root, BASE, directory, name, AtFlags::empty())
    }
}

fn make(directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(directory, name, flags, MODE).map(drop)
}
