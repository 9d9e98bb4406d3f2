//! A query of the container that the host's resolvers are asked, one after the other.
//!
//! Each attempt has a socket of its own, connected to the server, and a number of its own: an answer from anywhere
//! else does not arrive, and one that is guessed has 32 bits to guess (RFC 5452).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use std::{io, vec};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::Server;
use crate::answer::{Pending, Via};
use crate::stream::Stream;

/// How long all servers together have. A client gives up after 5 seconds (resolv.conf(5)), and is told before.
const PATIENCE: Duration = Duration::from_millis(4200);

/// To whom an answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client {
    /// Whoever sent the datagram from here.
    Datagram(SocketAddr),
    /// The connection with this token.
    Connection(u64),
}

/// What a client is told in the end; nothing where no message can say it.
pub(crate) type Outcome = Option<Vec<u8>>;

/// A query under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) client: Client,
    pub(crate) deadline: Instant,
    /// How long each server has.
    share: Duration,
    pending: Pending,
    left: vec::IntoIter<Server>,
    attempt: Attempt,
    /// What a server answered that could not help.
    spare: Outcome,
}

/// One server being asked.
#[derive(Debug)]
struct Attempt {
    id: u16,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Tcp(Stream),
}

/// How far an exchange is.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The server has not answered yet.
    Waiting,
    /// This is the answer.
    Answered(Vec<u8>),
    /// This server does not help.
    Failed,
}

impl Exchange {
    /// Asks the first of these servers that can be asked; where there is none, it has ended.
    pub(crate) fn begin(pending: Pending, client: Client, servers: &[Server]) -> Result<Self, Outcome> {
        let mut servers = servers.to_vec();
        // A datagram may be lost, so a lone server is asked twice.
        if let [lone] = &servers[..] {
            servers.push(lone.clone());
        }
        let share = PATIENCE / u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
        let mut left = servers.into_iter();
        match next_attempt(&pending, client, &mut left) {
            Some(attempt) => {
                let deadline = Instant::now() + share;
                Ok(Self { client, deadline, share, pending, left, attempt, spare: None })
            }
            None => Err(pending.failure()),
        }
    }

    /// Asks the next server, by another socket; where there is none left, it has ended.
    pub(crate) fn go_on(mut self) -> Result<Self, Outcome> {
        match next_attempt(&self.pending, self.client, &mut self.left) {
            Some(attempt) => Ok(Self { attempt, deadline: Instant::now() + self.share, ..self }),
            None => Err(self.spare.or_else(|| self.pending.failure())),
        }
    }

    /// Reads what the server sent, when its socket has become ready.
    pub(crate) fn progress(&mut self, buffer: &mut [u8]) -> Progress {
        self.attempt.receive(&self.pending, buffer, &mut self.spare).unwrap_or(Progress::Failed)
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> EventFlags {
        match &self.attempt.socket {
            Socket::Udp(_) => EventFlags::IN,
            Socket::Tcp(stream) => stream.interest(),
        }
    }
}

impl AsFd for Exchange {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.attempt.socket {
            Socket::Udp(socket) => socket.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// A server that cannot be asked (no route, its link is gone) is as one that does not answer.
fn next_attempt(pending: &Pending, client: Client, left: &mut vec::IntoIter<Server>) -> Option<Attempt> {
    let via = match client {
        Client::Datagram(_) => Via::Udp,
        Client::Connection(_) => Via::Tcp,
    };
    left.find_map(|server| Attempt::new(pending, via, server.socket_address().ok()?).ok())
}

impl Attempt {
    fn new(pending: &Pending, via: Via, server: SocketAddr) -> io::Result<Self> {
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        let id = u16::from_ne_bytes(id);
        let query = pending.numbered(id);
        let socket = match via {
            Via::Udp => {
                let any = match server {
                    SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_nonblocking(true)?;
                socket.connect(server)?;
                socket.send(&query)?;
                Socket::Udp(socket)
            }
            Via::Tcp => {
                let mut stream = Stream::new(connecting(server)?)?;
                stream.send(&query)?;
                Socket::Tcp(stream)
            }
        };
        Ok(Self { id, socket })
    }

    fn receive(&mut self, pending: &Pending, buffer: &mut [u8], spare: &mut Outcome) -> io::Result<Progress> {
        let id = self.id;
        let mut sort = |answer: &[u8]| match pending.translate(answer, id) {
            Some(reply) if reply.failed => {
                *spare = Some(reply.message);
                Progress::Failed
            }
            Some(reply) => Progress::Answered(reply.message),
            None => Progress::Waiting,
        };
        match &mut self.socket {
            Socket::Udp(socket) => match socket.recv(buffer) {
                Ok(length) => Ok(sort(&buffer[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Progress::Waiting),
                Err(error) => Err(error),
            },
            Socket::Tcp(stream) => {
                stream.flush()?;
                match stream.receive()?.first() {
                    Some(answer) => Ok(sort(answer)),
                    None if stream.has_ended() => Ok(Progress::Failed),
                    None => Ok(Progress::Waiting),
                }
            }
        }
    }
}

/// A connection that is being made.
fn connecting(server: SocketAddr) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}
