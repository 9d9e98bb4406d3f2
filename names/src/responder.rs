//! The name server of one container.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use mica_core::{Error, Result};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::View;
use crate::answer::{Pending, Verdict, Via, judge};
use crate::exchange::{Client, Exchange, Outcome, Progress};
pub use crate::inside::ADDRESS;
use crate::inside::{self, Way};
use crate::stream::Stream;

/// As many queries are under way at the host's resolvers, each with a descriptor; more are refused.
const MOST_EXCHANGES: usize = 256;
/// As many connections the container may hold open; more wait.
const MOST_CONNECTIONS: usize = 64;
/// As many datagrams are read in one turn.
const MOST_AT_ONCE: usize = 64;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// How long no connection is taken, when there are too many of them or descriptors have run out.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest message there is.
const LONGEST: usize = 65535;

/// The tokens of what is always there; those of connections and exchanges follow, and none is used twice.
const UDP: u64 = 0;
const TCP: u64 = 1;
const TIMER: u64 = 2;
const FIRST: u64 = 3;

/// A name server at [`ADDRESS`] in a container's network namespace. It serves in [`turn`](Self::turn) and nowhere
/// else, and never blocks there.
///
/// The container may bind port 53 of all its addresses: the server's sockets are at another port, and what is sent to
/// port 53 of [`ADDRESS`] is led there by nftables. Where the kernel has none of it they are at port 53, and
/// [`holds_port`](Self::holds_port) says why.
///
/// Everything of it is gone when it is dropped. Until then it keeps the namespace alive. Dropping it waits for a grace
/// period of the kernel (12 ms, no work), because of its rules; where the namespace ends too, [`leave`](Self::leave) does not.
#[derive(Debug)]
pub struct Responder {
    view: View,
    way: Way,
    udp: UdpSocket,
    tcp: TcpListener,
    events: OwnedFd,
    timer: OwnedFd,
    /// What the timer is set to.
    armed: Option<Instant>,
    /// When connections are taken again.
    paused: Option<Instant>,
    connections: HashMap<u64, Connection>,
    exchanges: HashMap<u64, Exchange>,
    next: u64,
    buffer: Vec<u8>,
}

/// A connection of the container's.
#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// How many of its queries are under way.
    waiting: usize,
    deadline: Instant,
}

impl Responder {
    /// Starts serving in `namespace`, in which `lo` is up. The host's resolvers are asked from the network namespace
    /// of the thread that calls [`turn`](Self::turn).
    ///
    /// Fails, leaving nothing, where the namespace cannot be entered or [`ADDRESS`] cannot be bound in it.
    pub fn start(namespace: BorrowedFd<'_>, view: View) -> Result<Self> {
        let failed = |e: Errno| Error::driver("prepare to wait for queries", e);
        let inside = inside::open(namespace)?;
        let events = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let fixed = [(UDP, inside.udp.as_fd()), (TCP, inside.tcp.as_fd()), (TIMER, timer.as_fd())];
        for (token, source) in fixed {
            epoll::add(&events, source, EventData::new_u64(token), EventFlags::IN).map_err(failed)?;
        }
        Ok(Self {
            view,
            way: inside.way,
            udp: inside.udp,
            tcp: inside.tcp,
            events,
            timer,
            armed: None,
            paused: None,
            connections: HashMap::new(),
            exchanges: HashMap::new(),
            next: FIRST,
            buffer: vec![0; LONGEST],
        })
    }

    /// Why the container cannot bind port 53 of all its addresses; `None` where it can.
    pub fn holds_port(&self) -> Option<&Error> {
        match &self.way {
            Way::Redirected(_) => None,
            Way::Bound(why) => Some(why),
        }
    }

    /// Ends the service together with the namespace: its rules are left there. Whoever keeps the namespace can start another
    /// service in it. Linux before 6.9 has it wait all the same.
    pub fn leave(self) {
        if let Way::Redirected(redirect) = self.way {
            redirect.leave();
        }
    }

    /// Answers by another view from now on. Queries that are under way at servers it does not have are given up.
    pub fn show(&mut self, view: View) {
        if view.servers != self.view.servers {
            for (_, exchange) in self.exchanges.drain() {
                if let Client::Connection(token) = exchange.client {
                    self.connections.remove(&token);
                }
            }
        }
        self.view = view;
    }

    /// Waits until there is something to do.
    pub fn wait(&self) -> Result<()> {
        match poll(&mut [PollFd::new(self, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(Error::driver("wait for queries", e)),
        }
    }

    /// Does what there is to do, and no more than a part of it when there is much.
    ///
    /// A failure of a client or of a server ends what it concerns. An error that is returned ends the service.
    pub fn turn(&mut self) -> Result<()> {
        let mut ready = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; MOST_AT_ONCE];
        let count = match epoll::wait(&self.events, &mut ready[..], Some(&Timespec::default())) {
            Err(Errno::INTR) => 0,
            other => other.map_err(|e| Error::driver("wait for queries", e))?,
        };
        for event in &ready[..count] {
            let (token, flags) = (event.data.u64(), event.flags);
            match token {
                UDP => self.datagrams()?,
                TCP => self.accept(),
                TIMER => self.rang(),
                token if self.connections.contains_key(&token) => self.connection(token, flags),
                token => self.exchange(token),
            }
        }
        self.expire(Instant::now());
        self.arm()
    }

    /// What was late is looked for in each turn; the timer only has to be silent again.
    fn rang(&mut self) {
        self.armed = None;
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    fn datagrams(&mut self) -> Result<()> {
        for _ in 0..MOST_AT_ONCE {
            match self.udp.recv_from(&mut self.buffer) {
                Ok((length, client)) => self.datagram(length, client),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(|| "receive a query")(error)),
            }
        }
        Ok(())
    }

    fn datagram(&mut self, length: usize, client: SocketAddr) {
        match judge(&self.buffer[..length], Via::Udp, &self.view) {
            Verdict::Answer(answer) => self.answer_datagram(&answer, client),
            Verdict::Forward(pending) => self.forward(pending, Client::Datagram(client)),
            Verdict::Ignore => {}
        }
    }

    /// An answer that cannot be sent, because the container's own rules or memory forbid it, is lost as it would be
    /// on a wire, and the client asks again.
    fn answer_datagram(&self, answer: &[u8], client: SocketAddr) {
        let _ = self.udp.send_to(answer, client);
    }

    fn accept(&mut self) {
        while self.connections.len() < MOST_CONNECTIONS {
            match self.tcp.accept() {
                Ok((socket, _)) => self.accepted(Stream::new(socket)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => break,
            }
        }
        // The queue stays as it is, and would wake us at once.
        if epoll::delete(&self.events, &self.tcp).is_ok() {
            self.paused = Some(Instant::now() + PAUSE);
        }
    }

    fn accepted(&mut self, stream: io::Result<Stream>) {
        let Ok(stream) = stream else { return };
        let token = self.token();
        if epoll::add(&self.events, &stream, EventData::new_u64(token), stream.interest()).is_ok() {
            let deadline = Instant::now() + IDLE;
            self.connections.insert(token, Connection { stream, waiting: 0, deadline });
        }
    }

    fn connection(&mut self, token: u64, flags: EventFlags) {
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            self.connections.remove(&token);
            return;
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let received = connection.stream.flush().and_then(|()| connection.stream.receive());
        let Ok(queries) = received else {
            self.connections.remove(&token);
            return;
        };
        for query in queries {
            let Some(connection) = self.connections.get_mut(&token) else { return };
            connection.deadline = Instant::now() + IDLE;
            match judge(&query, Via::Tcp, &self.view) {
                Verdict::Answer(answer) => self.answer_connection(&answer, token),
                Verdict::Forward(pending) => {
                    connection.waiting += 1;
                    self.forward(pending, Client::Connection(token));
                }
                Verdict::Ignore => drop(self.connections.remove(&token)),
            }
        }
        self.settle(token);
    }

    fn answer_connection(&mut self, answer: &[u8], token: u64) {
        if self.connections.get_mut(&token).is_some_and(|to| to.stream.send(answer).is_err()) {
            self.connections.remove(&token);
        }
    }

    /// Waits for what a connection is to do next, or closes it when that is nothing.
    fn settle(&mut self, token: u64) {
        let Some(Connection { stream, waiting, .. }) = self.connections.get(&token) else { return };
        let data = EventData::new_u64(token);
        let done = *waiting == 0 && stream.is_done();
        if done || epoll::modify(&self.events, stream, data, stream.interest()).is_err() {
            self.connections.remove(&token);
        }
    }

    fn forward(&mut self, pending: Pending, client: Client) {
        let begun = if self.exchanges.len() < MOST_EXCHANGES {
            Exchange::begin(pending, client, &self.view.servers)
        } else {
            Err(pending.failure())
        };
        self.follow(begun, client);
    }

    fn exchange(&mut self, token: u64) {
        let Some(mut exchange) = self.exchanges.remove(&token) else { return };
        let client = exchange.client;
        match exchange.progress(&mut self.buffer) {
            Progress::Answered(answer) => self.follow(Err(Some(answer)), client),
            Progress::Failed => self.follow(exchange.go_on(), client),
            Progress::Waiting => {
                let data = EventData::new_u64(token);
                match epoll::modify(&self.events, &exchange, data, exchange.interest()) {
                    Ok(()) => drop(self.exchanges.insert(token, exchange)),
                    Err(_) => self.follow(exchange.go_on(), client),
                }
            }
        }
    }

    /// Waits for the server of an exchange that goes on; tells the client how one ended.
    fn follow(&mut self, mut exchange: Result<Exchange, Outcome>, client: Client) {
        let answer = loop {
            match exchange {
                Ok(open) => {
                    let token = self.token();
                    if epoll::add(&self.events, &open, EventData::new_u64(token), open.interest()).is_ok() {
                        self.exchanges.insert(token, open);
                        return;
                    }
                    exchange = open.go_on();
                }
                Err(answer) => break answer,
            }
        };
        match client {
            Client::Datagram(client) => answer.iter().for_each(|answer| self.answer_datagram(answer, client)),
            Client::Connection(token) => {
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.waiting -= 1;
                }
                answer.iter().for_each(|answer| self.answer_connection(answer, token));
                self.settle(token);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.exchanges.iter().filter(|(_, e)| e.deadline <= now).map(|(&token, _)| token).collect();
        for exchange in late.iter().filter_map(|token| self.exchanges.remove(token)).collect::<Vec<_>>() {
            let client = exchange.client;
            self.follow(exchange.go_on(), client);
        }
        self.connections.retain(|_, connection| connection.deadline > now);
        if self.paused.is_some_and(|until| until <= now) {
            let data = EventData::new_u64(TCP);
            let room = self.connections.len() < MOST_CONNECTIONS;
            let resumed = room && epoll::add(&self.events, &self.tcp, data, EventFlags::IN).is_ok();
            self.paused = (!resumed).then(|| now + PAUSE);
        }
    }

    /// Has the timer go off when the next thing is late.
    fn arm(&mut self) -> Result<()> {
        let exchanges = self.exchanges.values().map(|exchange| exchange.deadline);
        let connections = self.connections.values().map(|connection| connection.deadline);
        let next = exchanges.chain(connections).chain(self.paused).min();
        if next == self.armed {
            return Ok(());
        }
        // A timer that is set to nothing is one that is stopped.
        let left = next.map(|at| at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let failed = |e: &dyn std::fmt::Display| Error::driver("set the name server's timer", e.to_string());
        let it_value = Timespec::try_from(left.unwrap_or_default()).map_err(|e| failed(&e))?;
        let setting = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting).map_err(|e| failed(&e))?;
        self.armed = next;
        Ok(())
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

/// Readable when there is something to do.
impl AsFd for Responder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
