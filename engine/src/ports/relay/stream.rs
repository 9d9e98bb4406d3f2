//! A TCP connection that is handed on: both ways at once, each as fast as its reader takes it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// When it is asked whether a silent peer is still there: it may have gone with its network.
const ASK_AFTER: Duration = Duration::from_secs(60);

/// A client's connection and the one that was made for it.
#[derive(Debug)]
pub(super) struct Connection {
    client: Side,
    target: Side,
    /// To where the second one leads.
    to: SocketAddr,
    /// Where to try next, while it is not made.
    connecting: Option<Vec<SocketAddr>>,
}

/// One of the two.
#[derive(Debug)]
struct Side {
    socket: TcpStream,
    /// What it is waited for; nothing is not waited for at all, because the kernel tells of a connection's end in any case.
    waited: EventFlags,
    /// It sends no more.
    ended: bool,
    /// What is to be sent to it. Until it has it, nothing is read from the other side.
    pending: Vec<u8>,
    /// It was told that there is no more.
    told: bool,
}

impl Connection {
    /// Begins to connect a client, to the first of these that takes it. `None` where none can be tried; then the client's
    /// connection is reset.
    pub(super) fn begin(client: OwnedFd, to: &[SocketAddr], events: &OwnedFd, token: u64) -> Option<Self> {
        let client = Side::new(client.into());
        let Some((socket, to, rest)) = attempt(to) else {
            client.reset();
            return None;
        };
        let mut connection = Self { client, target: Side::new(socket), to, connecting: Some(rest) };
        connection.wait(events, token).ok().map(|()| connection)
    }

    /// Where it leads.
    pub(super) fn to(&self) -> SocketAddr {
        self.to
    }

    /// Does what can be done now. False when it has ended.
    pub(super) fn progress(
        &mut self,
        is_target: bool,
        flags: EventFlags,
        buffer: &mut [u8],
        events: &OwnedFd,
        token: u64,
    ) -> bool {
        let done = if self.connecting.is_some() {
            // Of a client nothing is waited for until then.
            if is_target { self.connected() } else { Ok(()) }
        } else {
            let broken = EventFlags::HUP | EventFlags::ERR;
            let (from, to) = if is_target {
                (&mut self.target, &mut self.client)
            } else {
                (&mut self.client, &mut self.target)
            };
            let takes =
                if flags.intersects(EventFlags::OUT | broken) { hand_on(to, from, buffer) } else { Ok(()) };
            let gives =
                if flags.intersects(EventFlags::IN | broken) { hand_on(from, to, buffer) } else { Ok(()) };
            takes.and(gives)
        };
        done.is_ok() && self.wait(events, token).is_ok() && !self.is_over()
    }

    /// Both sides have said all, and were told so.
    fn is_over(&self) -> bool {
        self.client.told && self.target.told
    }

    /// Goes on to the next address where this one did not take it.
    fn connected(&mut self) -> io::Result<()> {
        let rest = self.connecting.take().unwrap_or_default();
        let Some(refused) = self.target.socket.take_error()? else { return Ok(()) };
        let (socket, to, rest) = attempt(&rest).ok_or(refused)?;
        // The old one is waited for no more when it is closed.
        self.target = Side::new(socket);
        (self.to, self.connecting) = (to, Some(rest));
        Ok(())
    }

    fn wait(&mut self, events: &OwnedFd, token: u64) -> Result<(), Errno> {
        let is_connecting = self.connecting.is_some();
        let wanted = |side: &Side, other: &Side| {
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, !is_connecting && !side.ended && other.pending.is_empty());
            flags.set(EventFlags::OUT, !side.pending.is_empty());
            flags
        };
        let (client, mut target) = (wanted(&self.client, &self.target), wanted(&self.target, &self.client));
        target.set(EventFlags::OUT, is_connecting || !self.target.pending.is_empty());
        self.client.wait(client, events, token)?;
        self.target.wait(target, events, token | 1)
    }
}

impl Drop for Connection {
    /// One that is broken off does not look as if all had been said.
    fn drop(&mut self) {
        [&self.client, &self.target].into_iter().filter(|side| !side.told).for_each(Side::reset);
    }
}

impl Side {
    fn new(socket: TcpStream) -> Self {
        // Each of these only makes it quicker or spares a descriptor.
        let _ = socket.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&socket, true)
            .and_then(|()| sockopt::set_tcp_keepidle(&socket, ASK_AFTER));
        Self { socket, waited: EventFlags::empty(), ended: false, pending: Vec::new(), told: false }
    }

    fn wait(&mut self, wanted: EventFlags, events: &OwnedFd, token: u64) -> Result<(), Errno> {
        let data = EventData::new_u64(token);
        match (self.waited.is_empty(), wanted.is_empty()) {
            _ if self.waited == wanted => {}
            (true, _) => epoll::add(events, &self.socket, data, wanted)?,
            (_, true) => epoll::delete(events, &self.socket)?,
            _ => epoll::modify(events, &self.socket, data, wanted)?,
        }
        self.waited = wanted;
        Ok(())
    }

    /// Closing it will not be taken for the end of what was to be sent.
    fn reset(&self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Takes what it can now.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                sent => return sent,
            }
        }
    }
}

/// Takes from one side to the other what there is, at most a buffer of it, and at its end says so.
fn hand_on(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> io::Result<()> {
    if !to.pending.is_empty() {
        let pending = std::mem::take(&mut to.pending);
        let sent = to.send(&pending)?;
        to.pending.extend(&pending[sent..]);
    }
    if to.pending.is_empty() && !from.ended {
        match from.socket.read(buffer) {
            Ok(0) => from.ended = true,
            Ok(length) => {
                let sent = to.send(&buffer[..length])?;
                to.pending.extend(&buffer[sent..length]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    if from.ended && to.pending.is_empty() && !to.told {
        to.socket.shutdown(Shutdown::Write)?;
        to.told = true;
    }
    Ok(())
}

/// Begins to connect to the first of these that is not refused at once; with those that are left.
fn attempt(to: &[SocketAddr]) -> Option<(TcpStream, SocketAddr, Vec<SocketAddr>)> {
    (0..to.len()).find_map(|at| {
        let socket = connecting(to[at]).ok()?;
        Some((socket, to[at], to[at + 1..].to_vec()))
    })
}

fn connecting(to: SocketAddr) -> Result<TcpStream, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}
