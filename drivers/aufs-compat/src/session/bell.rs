//! Waiting for requests.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// What threads wait for that have nothing to do.
///
/// Threads that block in a read of `/dev/fuse` are woken in turn, so that two requests of one client are answered by two
/// threads, on two processors. Of those that wait here the last to come is woken first: one thread does all the work, as long as
/// it is fast enough.
#[derive(Debug)]
pub(super) struct Bell {
    epoll: OwnedFd,
    /// Can be read when the session is over.
    over: OwnedFd,
    /// Tells one who waits to look for a request.
    nudge: OwnedFd,
}

impl Bell {
    /// A bell that rings when there is something to read on `channel`, which must not block.
    pub(super) fn new(channel: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let over = eventfd(0, EventfdFlags::CLOEXEC)?;
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let nothing = EventData::new_u64(0);
        // Each ring wakes one thread, which reads until there is nothing left.
        epoll::add(&epoll, channel, nothing, EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &nudge, nothing, EventFlags::IN | EventFlags::ET)?;
        epoll::add(&epoll, &over, nothing, EventFlags::IN)?;
        Ok(Self { epoll, over, nudge })
    }

    /// Returns when there may be something to read.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut events = Vec::with_capacity(1);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(Errno::INTR) => {}
                waited => return Ok(waited.map(drop)?),
            }
        }
    }

    /// Has another thread look, if there is more to read: two requests that came before anybody was awake ring once.
    pub(super) fn pass_on(&self, queue: BorrowedFd<'_>) {
        let mut more = [PollFd::new(&queue, PollFlags::IN)];
        if poll(&mut more, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0) {
            // Where the count is full, somebody was told.
            let _ = rustix::io::write(&self.nudge, &1_u64.to_ne_bytes());
        }
    }

    /// Has everybody look, now and whenever they wait.
    pub(super) fn end(&self) {
        let _ = rustix::io::write(&self.over, &1_u64.to_ne_bytes());
    }
}
