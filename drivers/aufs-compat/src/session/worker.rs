//! One thread of a session.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader, Writer};
use rustix::io::Errno;

use super::bell::Bell;
use super::extra::{self, Extra};
use super::message::{HEAD, Head, Reply, Words, opcode};
use super::pipe::{Part, Pipe};
use super::{LONGEST_DATA, report};

/// Room for the longest data and for what stands before it.
pub(super) const BUFFER: usize = LONGEST_DATA + 4096;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is mounted any more.
    Unmounted,
    /// Somebody aborted the connection, in `/sys/fs/fuse/connections`.
    Aborted,
}

/// Answers what comes on one queue. A reply goes to the queue that its request came from.
pub(super) struct Worker<'a, F: Extra> {
    queue: BorrowedFd<'a>,
    bell: &'a Bell,
    server: &'a Server<Arc<F>>,
    fs: &'a F,
}

impl<'a, F: Extra> Worker<'a, F> {
    pub(super) fn new(queue: BorrowedFd<'a>, bell: &'a Bell, server: &'a Server<Arc<F>>, fs: &'a F) -> Self {
        Self { queue, bell, server, fs }
    }

    /// Serves until the session ends.
    pub(super) fn run(&self) -> io::Result<End> {
        let (mut request, mut reply) = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut pipe = Pipe::new();
        loop {
            match next(self.queue, &mut request)? {
                Next::Request(length) => {
                    self.bell.pass_on(self.queue);
                    self.answer(&mut request[..length], &mut reply, &mut pipe);
                }
                Next::Nothing => self.bell.wait()?,
                Next::End(end) => {
                    self.bell.end();
                    return Ok(end);
                }
            }
        }
    }

    fn answer(&self, request: &mut [u8], buffer: &mut [u8], pipe: &mut Option<Pipe>) {
        let head = match Head::of(request) {
            Ok(head) => head,
            Err(error) => return report(&format!("the kernel sent half a request: {error}")),
        };
        if let Some(reply) = extra::answer(self.fs, &head, request) {
            send(self.queue, &reply.finish());
            return;
        }
        if head.opcode == opcode::READ && self.read(&head, request, pipe).is_some() {
            return;
        }
        let answered = dispatch(self.server, self.queue.as_raw_fd(), request, buffer);
        // The library answers most of what it cannot read, but not all, and whoever asked would wait for ever. The kernel
        // ignores a second answer.
        if answered.is_err() && head.is_answered() {
            let error = io::Error::from_raw_os_error(libc::EIO);
            send(self.queue, &Reply::error(head.unique, &error).finish());
        }
    }

    /// Answers a read through the pipe; none where it did not.
    fn read(&self, head: &Head, request: &[u8], pipe: &mut Option<Pipe>) -> Option<()> {
        let mut body = Words(request.get(HEAD..)?);
        let (handle, offset, length) = (body.long().ok()?, body.long().ok()?, body.word().ok()?);
        let part = Part { offset, length: length as usize };
        let through = pipe.as_mut().filter(|pipe| pipe.takes(part))?;
        let file = self.fs.source(handle)?;
        let answered = through.answer(self.queue, head.unique, file.as_fd(), part);
        if answered.is_err() {
            // Nobody knows what is left in it.
            *pipe = Pipe::new();
        }
        answered.ok()
    }
}

/// Has the library answer, by one `write(2)` on `to`.
pub(super) fn dispatch<F: Extra>(
    server: &Server<Arc<F>>,
    to: i32,
    request: &mut [u8],
    buffer: &mut [u8],
) -> Result<(), String> {
    let reader = Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).map_err(|e| e.to_string())?;
    let writer = FuseDevWriter::<()>::new(to, buffer).map_err(|e| e.to_string())?;
    let answered = server.handle_message(reader, Writer::FuseDev(writer), None, None);
    answered.map(drop).map_err(|e| e.to_string())
}

/// What comes next on a queue.
pub(super) enum Next {
    /// A request of this length.
    Request(usize),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End(End),
}

/// Looks for it, or waits for it where the queue blocks.
pub(super) fn next(queue: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Next> {
    /// To a request that is read while the mount ends the kernel says that it was aborted, too (`fuse_dev_do_read`). Only the
    /// next answer is about the connection, or one of the next where more requests were on their way.
    const ANSWERS: u32 = 256;
    let mut aborted = 0;
    loop {
        return match rustix::io::read(queue, &mut *buffer) {
            Ok(length) => Ok(Next::Request(length)),
            Err(Errno::CONNABORTED) if aborted < ANSWERS => {
                aborted += 1;
                std::thread::yield_now();
                continue;
            }
            // A request was taken back before it was read.
            Err(Errno::NOENT | Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(Next::Nothing),
            Err(Errno::NODEV) => Ok(Next::End(End::Unmounted)),
            Err(Errno::CONNABORTED) => Ok(Next::End(End::Aborted)),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Sends a reply. That nobody waits for it any more is no error, and the end of the mount is noticed by who reads.
pub(super) fn send(queue: BorrowedFd<'_>, reply: &[u8]) {
    match rustix::io::write(queue, reply) {
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
        Err(errno) => report(&format!("the kernel refused a reply: {}", io::Error::from(errno))),
    }
}
