//! A directory with a few files, each of which shows something of a session.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, Entry, FileSystem, FsOptions, OpenOptions, ZeroCopyReader, ZeroCopyWriter,
};
use mica_aufs_compat::session::{self, Backing, Connection, Extra, Opened, Span, Wishes};
use mica_mount::Tree;
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What a file has when the server is asked.
pub(super) const ANSWERED: &[u8] = b"answered";
/// What it has when the kernel reads it by itself.
pub(super) const BACKED: &[u8] = b"by the kernel";
/// What the server says it copied, when it is asked for more.
pub(super) const COPIED: usize = 3;

const NAMES: [&str; 8] = ["file", "slow", "is-read", "go", "panic", "is-passed-through", "changes", "change"];
const FILE: u64 = 10;
const SLOW: u64 = 11;
const IS_READ: u64 = 12;
const GO: u64 = 13;
const PANIC: u64 = 14;
const IS_PASSED_THROUGH: u64 = 15;
const CHANGES: u64 = 16;
const CHANGE: u64 = 17;
const NAMELESS: u64 = 99;

struct Tiny {
    keeps: bool,
    backing: OwnedFd,
    connection: OnceLock<Arc<Connection>>,
    held: Mutex<Option<(Backing, u64)>>,
    open: Mutex<HashSet<u64>>,
    handles: AtomicU64,
    change: AtomicU64,
    gate: (Mutex<(bool, bool)>, Condvar),
}

/// How many files the server thinks are open: what `statfs` shows as free.
pub(super) fn open_files(tree: &Tree) -> u64 {
    rustix::fs::statvfs(tree.path()).unwrap().f_bfree
}

/// Serves it on descriptor 3.
pub(super) fn serve() -> ExitCode {
    let how = std::env::args().nth(3).unwrap();
    // A safe way to own what was inherited.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    let channel = rustix::process::pidfd_getfd(own, 3, PidfdGetfdFlags::empty()).unwrap();
    nix::unistd::close(3).unwrap();
    if how == "unprivileged" {
        let sets = rustix::thread::capabilities(None).unwrap();
        let less = sets.effective - CapabilitySet::SYS_ADMIN;
        rustix::thread::set_capabilities(None, CapabilitySets { effective: less, ..sets }).unwrap();
    }
    let wishes = Wishes { passthrough: matches!(&*how, "passthrough" | "unprivileged"), threads: Some(3) };
    let mut backing = tempfile::tempfile().unwrap();
    backing.write_all(BACKED).unwrap();
    let tiny = Tiny {
        keeps: how != "uncached",
        backing: backing.into(),
        connection: OnceLock::new(),
        held: Mutex::default(),
        open: Mutex::default(),
        handles: AtomicU64::new(1),
        change: AtomicU64::new(0),
        gate: Default::default(),
    };
    match session::serve(channel, &Arc::new(tiny), &wishes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Tiny {
    fn time(&self) -> Duration {
        Duration::from_secs(if self.keeps { 3600 } else { 0 })
    }

    fn content(&self, inode: u64) -> Vec<u8> {
        match inode {
            FILE | SLOW | GO | CHANGE => ANSWERED.to_vec(),
            number => number.to_ne_bytes().to_vec(),
        }
    }

    fn stat(&self, inode: u64) -> stat64 {
        // A file is as long as the longest of what it may have.
        let size = if inode == FILE { BACKED.len() } else { self.content(inode).len() };
        let mut stat = Entry::default().attr;
        stat.st_ino = inode;
        stat.st_mode = if inode == 1 { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
        stat.st_nlink = 1;
        stat.st_size = size as i64;
        stat.st_blksize = 4096;
        stat
    }

    fn entry(&self, inode: u64) -> Entry {
        let time = self.time();
        Entry { inode, attr: self.stat(inode), attr_timeout: time, entry_timeout: time, ..Entry::default() }
    }

    fn opened(&self) -> u64 {
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        self.open.lock().unwrap().insert(handle);
        handle
    }

    fn find(&self, name: &[u8]) -> Option<u64> {
        let name = str::from_utf8(name).ok()?;
        if let Some(number) = name.strip_prefix('n').and_then(|number| number.parse().ok()) {
            return Some(number);
        }
        let number = FILE + NAMES.iter().position(|known| *known == name)? as u64;
        let is_there = match number {
            IS_READ => self.gate.0.lock().unwrap().0,
            IS_PASSED_THROUGH => self.connection.get().is_some_and(|connection| connection.passes_through()),
            _ => true,
        };
        is_there.then_some(if number == CHANGES {
            number + 100 + self.change.load(Ordering::Relaxed)
        } else {
            number
        })
    }

    /// Answers a read of `slow` once somebody reads `go`.
    fn wait(&self) {
        let (state, changed) = &self.gate;
        let mut state = state.lock().unwrap();
        state.0 = true;
        let _state = changed.wait_while(state, |state| !state.1).unwrap();
    }

    fn go(&self) {
        self.gate.0.lock().unwrap().1 = true;
        self.gate.1.notify_all();
    }
}

type OpenedFile = (Option<u64>, OpenOptions, Option<u32>);

impl FileSystem for Tiny {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        Ok(capable
            & (FsOptions::ASYNC_READ
                | FsOptions::BIG_WRITES
                | FsOptions::MAX_PAGES
                | FsOptions::PARALLEL_DIROPS))
    }

    fn lookup(&self, _: &Context, _: u64, name: &CStr) -> io::Result<Entry> {
        let inode = self.find(name.to_bytes()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        Ok(self.entry(inode))
    }

    fn getattr(&self, _: &Context, inode: u64, _: Option<u64>) -> io::Result<(stat64, Duration)> {
        Ok((self.stat(inode), self.time()))
    }

    fn open(&self, _: &Context, inode: u64, _: u32, _: u32) -> io::Result<OpenedFile> {
        match inode {
            PANIC => panic!("the tiny file system panics"),
            GO => self.go(),
            CHANGE => {
                self.change.fetch_add(1, Ordering::Relaxed);
                self.connection.get().unwrap().forget_name(1, b"changes")?;
            }
            _ => {}
        }
        let connection = self.connection.get().unwrap();
        if inode != FILE || !connection.passes_through() {
            return Ok((Some(self.opened()), OpenOptions::empty(), None));
        }
        let mut held = self.held.lock().unwrap();
        if held.is_none() {
            *held = Some((connection.back(self.backing.as_fd())?, 0));
        }
        let (backing, users) = held.as_mut().unwrap();
        *users += 1;
        Ok((Some(self.opened()), backing.options(), Some(backing.number())))
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        let mut held = self.held.lock().unwrap();
        if let Some((_, users)) = held.as_mut().filter(|_| inode == FILE) {
            *users -= 1;
            if *users == 0 {
                *held = None;
            }
        }
        self.open.lock().unwrap().remove(&handle);
        Ok(())
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        if inode == SLOW {
            self.wait();
        }
        let content = self.content(inode);
        let rest = content.get(offset as usize..).unwrap_or_default();
        to.write(&rest[..rest.len().min(size as usize)])
    }

    fn write(
        &self,
        _: &Context,
        _: u64,
        _: u64,
        _: &mut dyn ZeroCopyReader,
        size: u32,
        _: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        _: u32,
    ) -> io::Result<usize> {
        Ok(size as usize)
    }

    fn statfs(&self, caller: &Context, inode: u64) -> io::Result<statvfs64> {
        let mut stat = Nothing.statfs(caller, inode)?;
        stat.f_bfree = self.open.lock().unwrap().len() as u64;
        Ok(stat)
    }
}

/// What a file system answers with that says nothing.
struct Nothing;

impl FileSystem for Nothing {
    type Inode = u64;
    type Handle = u64;
}

impl Extra for Tiny {
    fn connected(&self, connection: &Arc<Connection>) {
        self.connection.set(Arc::clone(connection)).unwrap();
    }

    fn tmpfile(&self, _: &Context, parent: u64, how: &CreateIn) -> io::Result<Opened> {
        assert_eq!((parent, how.mode & 0o777), (1, 0o666 & !how.umask));
        Ok((self.entry(NAMELESS), Some(self.opened()), OpenOptions::empty(), None))
    }

    fn copy_file_range(&self, _: &Context, from: Span, to: Span, length: u64) -> io::Result<u64> {
        assert_eq!((from.inode, from.offset, to.inode, to.offset, length), (FILE, 5, NAMELESS, 7, 4));
        Ok(COPIED as u64)
    }
}
