//! The content of a file that is open.
//!
//! All opens of a file share one descriptor on its branch. Once the file is copied up they have that of the copy, so that
//! whoever reads sees what was written, also by a descriptor that was there before. While one is open, the file is either
//! read through the kernel's cache by all or passed through for all (see [`passthrough`](super::passthrough)): a file that
//! may yet be copied up is never passed through, so its opens stay right, and one that is copied up while it is open
//! stays in the cache until its last close.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use fuse_backend_rs::api::filesystem::OpenOptions;
use rustix::fs::{self, OFlags};
use rustix::io::Errno;

use super::node::Node;
use super::{Result, Union, lock};
use crate::session::Backing;
use crate::sys::file::open_options;

/// What is known about the content of a file.
#[derive(Debug, Default)]
pub(crate) struct Content {
    open: Option<Box<Open>>,
    /// What has its name now: it was copied up while the kernel passed it through (see
    /// [`Options::stale_reads`](super::Options::stale_reads)). This node stays for who has it open, and is read from below; its attributes are those of the other.
    pub(crate) successor: Option<Arc<Node>>,
    /// It was made here and never given capabilities. The kernel asks for them before it writes.
    pub(crate) bare: bool,
}

/// A file that is open at least once.
#[derive(Debug)]
struct Open {
    file: Arc<Opened>,
    /// How often.
    count: u32,
    mode: Mode,
}

/// Who reads and writes an open file.
#[derive(Debug)]
enum Mode {
    /// We, and the kernel keeps what was read.
    Cached,
    /// The kernel itself.
    Passthrough(Backing),
}

/// What the open descriptors of one file share.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The file.
    pub(crate) node: Arc<Node>,
    current: Mutex<Current>,
}

/// Where the content is now.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// Open for reading; for writing too if it is on the writable branch and nothing forbids it.
    pub(crate) file: Arc<OwnedFd>,
    /// Whether it is open for writing.
    pub(crate) writable: bool,
    /// Whether it is on the writable branch.
    pub(crate) upper: bool,
}

impl AsFd for Current {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Opened {
    /// Where the content is at this moment.
    pub(crate) fn current(&self) -> Current {
        lock(&self.current).clone()
    }
}

impl Content {
    /// What its open descriptors share, if there are any.
    pub(crate) fn opened(&self) -> Option<&Arc<Opened>> {
        self.open.as_deref().map(|open| &open.file)
    }

    /// From now on all open descriptors read and write this file.
    pub(crate) fn point(&self, current: Current) {
        if let Some(open) = &self.open {
            *lock(&open.file.current) = current;
        }
    }

    /// Whether the file may be being executed. An open that could write the kernel refuses then; but one for reading that
    /// truncates it passes on first, and then it is too late.
    fn may_run(&self) -> bool {
        let opened = self.opened().map(|opened| opened.current());
        opened.is_some_and(|file| fs::fstat(file).is_ok_and(|stat| stat.st_mode & 0o111 != 0))
    }

    /// Whether the kernel reads the file itself, of whatever branch.
    pub(crate) fn passed_through(&self) -> bool {
        self.open.as_deref().is_some_and(|open| matches!(open.mode, Mode::Passthrough(_)))
    }
}

/// An open file, as the kernel is told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// By what number it will name it.
    pub(crate) handle: u64,
    pub(crate) options: OpenOptions,
    /// The number of the [`Backing`] that it passes the file through to.
    pub(crate) backing: Option<u32>,
}

/// `FOPEN_*` of `linux/fuse.h`. Nothing has to be written out at a close, so the kernel need not say that there was one.
const KEEP_CACHE: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;
const PASSTHROUGH: u32 = 1 << 7;

impl Union {
    /// Opens a file. With `O_TRUNC` it is emptied, and loses setuid and setgid if `kill` says so.
    pub(crate) fn open_file(&self, node: &Arc<Node>, flags: OFlags, kill: bool) -> Result<Answer> {
        let mut content = lock(node.content()?);
        let truncate = flags.contains(OFlags::TRUNC);
        if truncate && !writes(flags) && content.may_run() {
            return Err(Errno::TXTBSY);
        }
        if truncate || (self.options.stale_reads && writes(flags)) {
            let length = if truncate { 0 } else { u64::MAX };
            self.raise(node, &mut content, length)?;
        }
        if content.successor.is_some() {
            // The kernel looks the name up again, and opens what it finds then.
            return Err(Errno::STALE);
        }
        let current = self.current(node, &content, flags)?;
        if truncate {
            self.cut(current.as_fd(), 0, kill)?;
        }
        Ok(self.add_open(node, &mut content, current))
    }

    /// The same for a file that was just made, open for reading and writing. Somebody else may have opened it since.
    pub(crate) fn open_created(&self, node: &Arc<Node>, file: OwnedFd) -> Result<Answer> {
        let mut content = lock(node.content()?);
        let current = match content.opened() {
            Some(opened) => opened.current(),
            None => Current { file: Arc::new(file), writable: true, upper: true },
        };
        content.bare = true;
        Ok(self.add_open(node, &mut content, current))
    }

    /// Undoes one open.
    pub(crate) fn close_file(&self, handle: u64, flags: OFlags) -> Result<()> {
        let opened = self.files.remove(handle).ok_or(Errno::BADF)?;
        let mut content = lock(opened.node.content()?);
        let passed_through = content.passed_through();
        if let Some(open) = &mut content.open {
            open.count -= 1;
            if open.count == 0 {
                content.open = None;
            }
        }
        drop(content);
        // Only who may read and write can have it mapped to be written.
        if passed_through && flags.contains(OFlags::RDWR) {
            self.forget_attributes(opened.node.number);
        }
        Ok(())
    }

    /// What has the name of a file now.
    pub(crate) fn shown(&self, node: &Arc<Node>) -> Result<Arc<Node>> {
        if !self.options.stale_reads || node.is_directory() {
            return Ok(Arc::clone(node));
        }
        Ok(Arc::clone(lock(node.content()?).successor.as_ref().unwrap_or(node)))
    }

    /// What an open file is read from and written to, after it was copied up if it is to be written to.
    pub(crate) fn opened(&self, handle: u64) -> Result<Arc<Opened>> {
        self.files.get(handle).ok_or(Errno::BADF)
    }

    /// Where a handle's content is, on the writable branch.
    pub(crate) fn writable(&self, handle: u64) -> Result<Current> {
        let opened = self.opened(handle)?;
        let current = opened.current();
        if current.upper {
            return Ok(current);
        }
        self.copy_up(&opened.node, u64::MAX)?;
        Ok(opened.current())
    }

    /// The descriptor for one more open.
    fn current(&self, node: &Arc<Node>, content: &Content, flags: OFlags) -> Result<Current> {
        let current = match content.opened() {
            Some(opened) => opened.current(),
            None => self.open_branch(node)?,
        };
        if !current.upper || current.writable || !writes(flags) {
            return Ok(current);
        }
        let (file, _) = self.open_node(node, OFlags::RDWR)?;
        let current = Current { file: Arc::new(file), writable: true, upper: true };
        content.point(current.clone());
        Ok(current)
    }

    fn open_branch(&self, node: &Arc<Node>) -> Result<Current> {
        if self.is_upper(node) {
            match self.open_node(node, OFlags::RDWR) {
                Ok((file, branch)) => {
                    return Ok(Current {
                        file: Arc::new(file),
                        writable: true,
                        upper: self.is_writable(branch),
                    });
                }
                // It can still be read: it is immutable, or its file system was made read-only.
                Err(Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::TXTBSY) => {}
                Err(errno) => return Err(errno),
            }
        }
        let (file, branch) = self.open_node(node, OFlags::RDONLY | OFlags::NOATIME)?;
        Ok(Current { file: Arc::new(file), writable: false, upper: self.is_writable(branch) })
    }

    fn add_open(&self, node: &Arc<Node>, content: &mut Content, current: Current) -> Answer {
        let open = content.open.get_or_insert_with(|| {
            let mode = self.mode(&current);
            let file = Arc::new(Opened { node: Arc::clone(node), current: Mutex::new(current) });
            Box::new(Open { file, count: 0, mode })
        });
        open.count += 1;
        let handle = self.files.insert(Arc::clone(&open.file));
        match &open.mode {
            Mode::Cached => Answer { handle, options: open_options(KEEP_CACHE | NO_FLUSH), backing: None },
            Mode::Passthrough(backing) => Answer {
                handle,
                options: open_options(PASSTHROUGH | NO_FLUSH),
                backing: Some(backing.number()),
            },
        }
    }

    /// Whether who has this file of a lower branch open may miss what is written later. Of a file with several names, all
    /// that have it open are shown the copy.
    fn stays_stale(&self, current: &Current) -> bool {
        self.options.stale_reads && fs::fstat(current).is_ok_and(|stat| stat.st_nlink == 1)
    }

    /// How a file is opened that is not open yet.
    fn mode(&self, current: &Current) -> Mode {
        let stays = current.upper || !self.is_writable(0) || self.stays_stale(current);
        match Some(current).filter(|_| stays).and_then(|current| self.backing(current.as_fd())) {
            Some(backing) => Mode::Passthrough(backing),
            None => Mode::Cached,
        }
    }
}

/// Whether an open with these flags can write.
fn writes(flags: OFlags) -> bool {
    flags.intersects(OFlags::WRONLY | OFlags::RDWR)
}
