//! The way from `::1` to a container.
//!
//! The kernel leads `127.0.0.1` out of the loopback (`route_localnet`), and has nothing of the kind for `::1`, which is what
//! many clients try first for `localhost`. So there something listens and hands on what it gets, one connection to the
//! container for each that it takes. The container sees the host as its client.
//!
//! It has no thread. Its owner waits for [one descriptor](Relay::as_fd) beside its own and calls [`Relay::turn`] when that
//! is readable.

mod datagram;
mod stream;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mica_core::network::Protocol;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::Reserved;
use super::bind::Listener;
use crate::{Error, Result};
use datagram::{Session, Sessions};
use stream::Connection;

/// As many connections are handed on at a time; more wait until one ends.
const MOST_CONNECTIONS: usize = 256;
/// As many clients of UDP are remembered; for one more, the one that was silent longest is forgotten.
const MOST_SESSIONS: usize = 256;
/// The descriptors that it has open at the most, but for the listeners.
pub(super) const MOST_DESCRIPTORS: u64 = 2 * MOST_CONNECTIONS as u64 + MOST_SESSIONS as u64 + 4;
/// As much is done in one turn: of events, of connections at one port, of datagrams from one socket.
const MOST_AT_ONCE: usize = 64;
/// The most that is read at once.
const CHUNK: usize = 64 * 1024;
/// How long a client of UDP may be silent.
const SILENCE: Duration = Duration::from_secs(90);
/// How long nothing is taken when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);

/// The tokens of what is always there. Those of connections and sessions follow; none is used twice.
const STREAMS: u64 = 0;
const DATAGRAMS: u64 = 1;
const TIMER: u64 = 2;
const FIRST: u64 = 4;

/// Hands on what arrives at `::1`. It serves in [`turn`](Self::turn) and nowhere else, and never blocks there.
#[derive(Debug)]
pub(crate) struct Relay {
    to: Vec<IpAddr>,
    silence: Duration,
    events: OwnedFd,
    /// The listeners of TCP wait apart, so that all of them are left alone by one call.
    streams: Arrivals,
    datagrams: Arrivals,
    timer: OwnedFd,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// Until when no connection is taken.
    paused: Option<Instant>,
    is_taking: bool,
    connections: HashMap<u64, Connection>,
    sessions: Sessions,
    next: u64,
    buffer: Vec<u8>,
}

/// Listeners with what tells which of them is ready.
#[derive(Debug)]
struct Arrivals {
    events: OwnedFd,
    listeners: Vec<Arc<Listener>>,
}

impl Arrivals {
    fn at(listeners: Vec<Arc<Listener>>) -> Result<Self, Errno> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        for (token, listener) in (0..).zip(&listeners) {
            epoll::add(&events, &listener.socket, EventData::new_u64(token), EventFlags::IN)?;
        }
        Ok(Self { events, listeners })
    }

    fn ready(&self) -> Result<Vec<(usize, Arc<Listener>)>, Errno> {
        let listener = |token: u64| {
            let at = usize::try_from(token).ok()?;
            Some((at, self.listeners.get(at)?.clone()))
        };
        Ok(ready(&self.events)?.into_iter().filter_map(|(token, _)| listener(token)).collect())
    }
}

/// What is ready now, no more than a part of it where it is much.
fn ready(events: &OwnedFd) -> Result<Vec<(u64, EventFlags)>, Errno> {
    let mut ready = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; MOST_AT_ONCE];
    let count = match epoll::wait(events, &mut ready[..], Some(&Timespec::default())) {
        Err(Errno::INTR) => 0,
        waited => waited?,
    };
    Ok(ready[..count].iter().map(|event| (event.data.u64(), event.flags)).collect())
}

impl Relay {
    /// Hands on what arrives at `::1`, to the container's addresses as [`lead_to`](Self::lead_to) says; `None` where nothing
    /// was reserved there.
    pub(crate) fn new(reserved: &Reserved, to: &[IpAddr]) -> Result<Option<Self>> {
        if reserved.listeners.is_empty() {
            return Ok(None);
        }
        Self::at(reserved, to, SILENCE).map(Some).map_err(failed)
    }

    /// Clients of UDP that are silent for as long as `silence` are forgotten.
    pub(super) fn at(reserved: &Reserved, to: &[IpAddr], silence: Duration) -> Result<Self, Errno> {
        let listeners = reserved.listeners.iter().cloned();
        let (streams, datagrams) = listeners.partition(|listener| listener.protocol == Protocol::Tcp);
        let (streams, datagrams) = (Arrivals::at(streams)?, Arrivals::at(datagrams)?);
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let fixed = [(STREAMS, &streams.events), (DATAGRAMS, &datagrams.events), (TIMER, &timer)];
        for (token, source) in fixed {
            epoll::add(&events, source, EventData::new_u64(token), EventFlags::IN)?;
        }
        Ok(Self {
            to: to.to_vec(),
            silence,
            events,
            streams,
            datagrams,
            timer,
            armed: None,
            paused: None,
            is_taking: true,
            connections: HashMap::new(),
            sessions: Sessions::default(),
            next: FIRST,
            buffer: vec![0; CHUNK],
        })
    }

    /// Hands on to these addresses from now on. A connection goes to the first that takes it, a datagram to the first. What
    /// leads to an address that is none of them any more ends.
    pub(crate) fn lead_to(&mut self, to: &[IpAddr]) -> Result<()> {
        self.to = to.to_vec();
        self.connections.retain(|_, connection| to.contains(&connection.to().ip()));
        self.sessions.retain(|session| to.contains(&session.to.ip()));
        self.settle()
    }

    /// Does what there is to do, and no more than a part of it when there is much.
    ///
    /// A failure of a client or of the container ends what it concerns. An error that is returned ends the service.
    pub(crate) fn turn(&mut self) -> Result<()> {
        for (token, flags) in ready(&self.events).map_err(failed)? {
            match token {
                STREAMS => self.arrived()?,
                DATAGRAMS => self.received()?,
                TIMER => self.rang(),
                token => self.go_on(token, flags),
            }
        }
        self.settle()
    }

    /// Hands on what came for a client, or from one that is known.
    fn go_on(&mut self, token: u64, flags: EventFlags) {
        if self.connections.contains_key(&(token & !1)) {
            self.progress(token, flags);
        } else if let Some(session) = self.sessions.get(token) {
            session.answer(&mut self.buffer);
        }
    }

    /// What was late is looked for after each turn; the timer only has to be silent again.
    fn rang(&mut self) {
        self.armed = None;
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    fn arrived(&mut self) -> Result<()> {
        for (_, listener) in self.streams.ready().map_err(failed)? {
            for _ in 0..MOST_AT_ONCE {
                if self.connections.len() >= MOST_CONNECTIONS {
                    return Ok(());
                }
                match accept_with(&listener.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(client) => self.take(client, listener.to),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    Err(Errno::AGAIN) => break,
                    // The queue stays as it is, and would wake us at once.
                    Err(_) => {
                        self.paused = Some(Instant::now() + PAUSE);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, client: OwnedFd, port: u16) {
        let to: Vec<SocketAddr> = self.to.iter().map(|to| SocketAddr::new(*to, port)).collect();
        let token = self.token();
        // A client that nothing can be done for is told so by the end of its connection.
        if let Some(connection) = Connection::begin(client, &to, &self.events, token) {
            self.connections.insert(token, connection);
        }
    }

    fn progress(&mut self, token: u64, flags: EventFlags) {
        let (token, is_target) = (token & !1, token & 1 == 1);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if !connection.progress(is_target, flags, &mut self.buffer, &self.events, token) {
            self.connections.remove(&token);
        }
    }

    fn received(&mut self) -> Result<()> {
        for (at, listener) in self.datagrams.ready().map_err(failed)? {
            for _ in 0..MOST_AT_ONCE {
                let Some((length, client)) = datagram::receive(&listener.socket, &mut self.buffer) else {
                    break;
                };
                self.hand_on(at, &listener, client, length);
            }
        }
        Ok(())
    }

    /// What cannot be sent on is lost, as it would be on a wire.
    fn hand_on(&mut self, at: usize, listener: &Arc<Listener>, client: SocketAddr, length: usize) {
        if self.sessions.find(at, client).is_none() {
            let Some(to) = self.to.first().map(|to| SocketAddr::new(*to, listener.to)) else { return };
            if self.sessions.len() >= MOST_SESSIONS {
                self.sessions.forget_the_most_silent();
            }
            let token = self.token();
            let Some(session) = Session::begin(at, listener.clone(), client, to, &self.events, token) else {
                return;
            };
            self.sessions.insert(token, session);
        }
        if let Some(session) = self.sessions.find(at, client) {
            session.send(&self.buffer[..length]);
        }
    }

    /// Ends what is late, and waits for what is to come next.
    fn settle(&mut self) -> Result<()> {
        let now = Instant::now();
        self.sessions.retain(|session| session.last + self.silence > now);
        self.paused = self.paused.filter(|until| *until > now);
        let takes = self.paused.is_none() && self.connections.len() < MOST_CONNECTIONS;
        if takes != self.is_taking {
            let set = if takes {
                epoll::add(&self.events, &self.streams.events, EventData::new_u64(STREAMS), EventFlags::IN)
            } else {
                epoll::delete(&self.events, &self.streams.events)
            };
            set.map_err(failed)?;
            self.is_taking = takes;
        }
        self.arm().map_err(failed)
    }

    /// Has the timer go off no later than something is late. It may go off too early: a session lives longer with each datagram.
    fn arm(&mut self) -> Result<(), Errno> {
        let late = self.sessions.oldest().map(|last| last + self.silence);
        let Some(next) = late.into_iter().chain(self.paused).min() else { return Ok(()) };
        if self.armed.is_some_and(|armed| armed <= next) {
            return Ok(());
        }
        // A timer that is set to nothing is one that is stopped.
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let it_value = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let setting = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.armed = Some(next);
        Ok(())
    }

    /// An even number; the next one is the connection's other side.
    fn token(&mut self) -> u64 {
        self.next += 2;
        self.next
    }
}

fn failed(errno: Errno) -> Error {
    Error::io(|| "hand on what arrives at ::1")(errno.into())
}

impl Drop for Relay {
    /// The last that a container said before it ended is here already, and gets where it was to go.
    fn drop(&mut self) {
        for source in [&self.streams.events, &self.datagrams.events, &self.timer] {
            // One of them may be left alone already.
            let _ = epoll::delete(&self.events, source);
        }
        for _ in 0..MOST_AT_ONCE {
            let ready = ready(&self.events).unwrap_or_default();
            if ready.is_empty() {
                return;
            }
            for (token, flags) in ready {
                self.go_on(token, flags);
            }
        }
    }
}

/// Readable when there is something to do.
impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
