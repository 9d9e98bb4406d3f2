//! Clients of UDP: each has a socket to the container, so that the answers are told apart.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recvfrom, sendto, socket_with,
};

use super::{Listener, MOST_AT_ONCE};

/// The next datagram, with who sent it; what does not fit is cut off, and nothing is longer than 64 KiB.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let received = rustix::io::retry_on_intr(|| recvfrom(socket, &mut *buffer, RecvFlags::empty()));
    let (length, _, client) = received.ok()?;
    Some((length, client?.try_into().ok()?))
}

/// A client that was heard of lately.
#[derive(Debug)]
pub(super) struct Session {
    /// Which of the listeners it sends to.
    at: usize,
    listener: Arc<Listener>,
    client: SocketAddr,
    pub(super) to: SocketAddr,
    socket: UdpSocket,
    /// When something came from or for it.
    pub(super) last: Instant,
}

impl Session {
    pub(super) fn begin(
        at: usize,
        listener: Arc<Listener>,
        client: SocketAddr,
        to: SocketAddr,
        events: &OwnedFd,
        token: u64,
    ) -> Option<Self> {
        let socket = connected(to).ok()?;
        epoll::add(events, &socket, EventData::new_u64(token), EventFlags::IN).ok()?;
        Some(Self { at, listener, client, to, socket, last: Instant::now() })
    }

    /// An error is one that the container sent: nobody listens there. Whoever sends datagrams knows that they get lost.
    pub(super) fn send(&mut self, datagram: &[u8]) {
        self.last = Instant::now();
        let _ = self.socket.send(datagram);
    }

    /// Hands the container's answers to the client.
    pub(super) fn answer(&mut self, buffer: &mut [u8]) {
        for _ in 0..MOST_AT_ONCE {
            let Ok(length) = self.socket.recv(buffer) else { return };
            self.last = Instant::now();
            let _ = sendto(&self.listener.socket, &buffer[..length], SendFlags::empty(), &self.client);
        }
    }
}

fn connected(to: SocketAddr) -> Result<UdpSocket, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_token: HashMap<u64, Session>,
    by_client: HashMap<(usize, SocketAddr), u64>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_token.len()
    }

    pub(super) fn insert(&mut self, token: u64, session: Session) {
        self.by_client.insert((session.at, session.client), token);
        self.by_token.insert(token, session);
    }

    pub(super) fn find(&mut self, at: usize, client: SocketAddr) -> Option<&mut Session> {
        let token = self.by_client.get(&(at, client))?;
        self.by_token.get_mut(token)
    }

    pub(super) fn get(&mut self, token: u64) -> Option<&mut Session> {
        self.by_token.get_mut(&token)
    }

    /// Since when the most silent one has said nothing.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.by_token.values().map(|session| session.last).min()
    }

    pub(super) fn forget_the_most_silent(&mut self) {
        let oldest = self.by_token.iter().min_by_key(|(_, session)| session.last).map(|(token, _)| *token);
        if let Some(session) = oldest.and_then(|token| self.by_token.remove(&token)) {
            self.by_client.remove(&(session.at, session.client));
        }
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&Session) -> bool) {
        self.by_token.retain(|_, session| keeps(session));
        let by_token = &self.by_token;
        self.by_client.retain(|_, token| by_token.contains_key(token));
    }
}
