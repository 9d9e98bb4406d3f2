//! What a file system can ask of the kernel.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;

use fuse_backend_rs::api::filesystem::OpenOptions;
use rustix::fs::MemfdFlags;

use super::init::Terms;
use super::message::Reply;
use super::worker::send;
use crate::sys;

const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;

/// A connection whose terms are settled.
#[derive(Debug)]
pub struct Connection {
    channel: Arc<OwnedFd>,
    passthrough: bool,
    notices: OnceLock<Sender<Vec<u8>>>,
}

impl Connection {
    pub(super) fn new(channel: OwnedFd, terms: Terms) -> Self {
        // What the kernel offers it may still refuse to this process, such as inside a user namespace.
        let passthrough = terms.passthrough && takes_files(channel.as_fd());
        Self { channel: Arc::new(channel), passthrough, notices: OnceLock::new() }
    }

    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Whether [`back`](Self::back) can succeed.
    pub fn passes_through(&self) -> bool {
        self.passthrough
    }

    /// Has the kernel hold a regular file, open for reading and writing where that is wanted, so that open files of the mount
    /// can be read and written through it.
    ///
    /// Fails where the kernel cannot, such as with `ELOOP` for a file of a file system that is stacked itself; then the file is
    /// served without. All that have one inode of the mount open at once must be served through the same [`Backing`], or
    /// none of them through any: the kernel answers anything else with `EIO`.
    pub fn back(&self, file: BorrowedFd<'_>) -> io::Result<Backing> {
        if !self.passthrough {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        let number = sys::open_backing(self.channel(), file)?;
        let number = NonZeroU32::new(number).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Backing { number, channel: Arc::clone(&self.channel) })
    }

    /// Has the kernel forget what it knows of a name in a directory, soon.
    ///
    /// A thread of its own sends it: the kernel may wait for a lock of that directory, and who holds that may wait for an
    /// answer of ours. So this can be called from anywhere, and who must be sure does not rely on it.
    pub fn forget_name(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        let length = u32::try_from(name.len()).map_err(io::Error::other)?;
        let notice = Reply::notice(INVAL_ENTRY).long(parent).word(length).word(0);
        self.notify(notice.bytes(name).bytes(b"\0"))
    }

    /// Has the kernel forget the attributes of a file, soon, as [`forget_name`](Self::forget_name) does.
    pub fn forget_attributes(&self, inode: u64) -> io::Result<()> {
        const NO_CONTENT: u64 = -1i64 as u64;
        self.notify(Reply::notice(INVAL_INODE).long(inode).long(NO_CONTENT).long(0))
    }

    /// Has the kernel forget the attributes of a file and what it holds of its content, soon.
    pub fn forget_content(&self, inode: u64) -> io::Result<()> {
        self.notify(Reply::notice(INVAL_INODE).long(inode).long(0).long(0))
    }

    fn notify(&self, notice: Reply) -> io::Result<()> {
        let notices = match self.notices.get() {
            Some(notices) => notices,
            None => {
                let started = self.start_notifier()?;
                self.notices.get_or_init(|| started)
            }
        };
        notices.send(notice.finish()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Starts a thread that ends when the sender is dropped.
    fn start_notifier(&self) -> io::Result<Sender<Vec<u8>>> {
        let (sender, receiver) = mpsc::channel();
        let channel = Arc::clone(&self.channel);
        thread::Builder::new().name("notices".to_owned()).spawn(move || send_all(&channel, &receiver))?;
        Ok(sender)
    }
}

fn send_all(channel: &OwnedFd, notices: &Receiver<Vec<u8>>) {
    for notice in notices {
        // Of what the kernel does not know it need not forget anything (`ENOENT`).
        send(channel.as_fd(), &notice);
    }
}

fn takes_files(channel: BorrowedFd<'_>) -> bool {
    let probe = rustix::fs::memfd_create("probe", MemfdFlags::CLOEXEC).map_err(io::Error::from);
    let taken = probe.and_then(|file| sys::open_backing(channel, file.as_fd()));
    taken.and_then(|number| sys::close_backing(channel, number)).is_ok()
}

/// A file that the kernel holds, until this value is dropped and no file of the mount is open through it.
#[derive(Debug)]
pub struct Backing {
    number: NonZeroU32,
    channel: Arc<OwnedFd>,
}

impl Backing {
    /// What the reply to an open says, that names this as what to read and write.
    pub fn options(&self) -> OpenOptions {
        const FOPEN_PASSTHROUGH: u32 = 1 << 7;
        sys::file::open_options(FOPEN_PASSTHROUGH)
    }

    /// How a reply names it.
    pub fn number(&self) -> u32 {
        self.number.get()
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // Fails only when the connection is gone, and then the kernel has let go of everything.
        let _ = sys::close_backing(self.channel.as_fd(), self.number());
    }
}
