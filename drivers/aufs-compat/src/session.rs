//! Serving a file system on a connection to `/dev/fuse`.
//!
//! The library at hand decodes a request, calls the file system and encodes the reply. What it lacks is here: threads that
//! read from a queue each, of which a request wakes one, and the same one while that keeps up (`bell`); the terms of the
//! connection that are newer than the library (`init`); the requests that it does not pass on ([`Extra`]); files that the
//! kernel reads and writes without asking ([`Backing`]), and notices that go the other way ([`Connection`]).
//!
//! A session ends when the mount does, that is when it is unmounted and nothing in it is open any more.

mod bell;
mod connection;
mod extra;
mod init;
mod message;
mod pipe;
mod worker;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process;
use std::sync::Arc;
use std::thread;

use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use rustix::fs::{Mode, OFlags};

pub use connection::{Backing, Connection};
pub use extra::{Extra, Opened, Span};

use crate::sys;
use bell::Bell;
use worker::{End, Worker};

/// The longest data of a request or reply. The mount option `max_read` must say the same, or a direct read can ask for more.
pub const LONGEST_DATA: usize = 1 << 20;

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Have the kernel read and write files by itself, where it can (Linux 6.9) and this process may (`CAP_SYS_ADMIN`).
    pub passthrough: bool,
    /// How many threads serve; none means one for each processor, and two at the least.
    pub threads: Option<usize>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { passthrough: true, threads: None }
    }
}

/// Serves `fs` on `channel`, an open `/dev/fuse` that is mounted or about to be, until the mount has ended.
///
/// [`Extra::connected`] is called before the first request, and [`FileSystem::destroy`] once after the last. Fails with
/// `ECONNABORTED` when somebody aborted the connection.
///
/// A thread that panics, or that cannot read from the connection, ends this process: the others wait in a read that
/// nothing but the kernel can end, and a mount that nobody serves must fail (`ENOTCONN`), not hang.
pub fn serve<F: Extra>(channel: OwnedFd, fs: &Arc<F>, wishes: &Wishes) -> io::Result<()> {
    let server = Server::new(Arc::clone(fs));
    let Some(terms) = init::negotiate(channel.as_fd(), &server, wishes)? else {
        fs.destroy();
        return Ok(());
    };
    let connection = Arc::new(Connection::new(channel, terms));
    fs.connected(&connection);
    let bell = Bell::new(connection.channel())?;
    let mut queues = vec![connection.channel().try_clone_to_owned()?];
    for _ in 1..threads(wishes) {
        queues.push(another_queue(&connection)?);
    }
    queues.iter().try_for_each(|queue| rustix::io::ioctl_fionbio(queue, true))?;
    let ends: Vec<End> = thread::scope(|scope| {
        let serving: Vec<_> = queues
            .iter()
            .map(|queue| {
                let worker = Worker::new(queue.as_fd(), &bell, &server, fs);
                scope.spawn(move || run(&worker))
            })
            .collect();
        serving.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    fs.destroy();
    match ends.contains(&End::Aborted) {
        true => Err(io::Error::from_raw_os_error(libc::ECONNABORTED)),
        false => Ok(()),
    }
}

fn threads(wishes: &Wishes) -> usize {
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    // One alone would keep everybody waiting while it copies a file.
    wishes.threads.unwrap_or_else(|| processors().max(2)).max(1)
}

/// A queue of its own for a thread, or the one that there is where `/dev/fuse` cannot be opened.
fn another_queue(connection: &Connection) -> io::Result<OwnedFd> {
    let fresh = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    match fresh.map_err(io::Error::from).and_then(|fresh| {
        sys::join_connection(fresh.as_fd(), connection.channel())?;
        Ok(fresh)
    }) {
        Ok(fresh) => Ok(fresh),
        Err(_) => connection.channel().try_clone_to_owned(),
    }
}

fn run<F: Extra>(worker: &Worker<'_, F>) -> End {
    let _bomb = EndsProcessOnPanic;
    match worker.run() {
        Ok(end) => end,
        Err(error) => {
            report(&format!("cannot read from the connection to the kernel: {error}"));
            process::exit(1)
        }
    }
}

struct EndsProcessOnPanic;

impl Drop for EndsProcessOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::exit(1);
        }
    }
}

/// Says something that no reply to a request can say, on one line of standard error and by one call.
pub(crate) fn report(text: &str) {
    use std::io::Write;
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
