//! The sockets that keep a port of the host for one container.
//!
//! The kernel leads what arrives at a published port to the container before it looks for a socket, so these never get a
//! packet. They are bound, and so nobody else can be: not another container, not a service of the host, whose clients would
//! all end up in the container. They do not listen. Should the rules that lead to the container be gone, a client is
//! refused, and does not hang.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mica_core::network::{Port, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// How many connections to `::1` wait to be taken.
const BACKLOG: i32 = 128;

/// What the host has of IPv6.
#[derive(Clone, Copy, Debug)]
pub(super) struct Six {
    /// There are sockets of that family.
    sockets: bool,
    /// `::1` is there.
    loopback: bool,
}

impl Six {
    /// That of the calling thread's namespace.
    pub(super) fn of_host() -> Self {
        let socket = open(Protocol::Udp, Ipv6Addr::LOCALHOST.into(), false);
        let loopback = |socket: &OwnedFd| bind(socket, &SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).is_ok();
        Self { sockets: socket.is_ok(), loopback: socket.is_ok_and(|socket| loopback(&socket)) }
    }
}

/// A socket at a port of `::1`, for whoever hands on what arrives there.
#[derive(Debug)]
pub(super) struct Listener {
    /// It does not block; one of TCP listens.
    pub(super) socket: OwnedFd,
    pub(super) protocol: Protocol,
    /// The port of the container.
    pub(super) to: u16,
}

/// What keeps a port, or as many in a row. They are given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) listeners: Vec<Arc<Listener>>,
}

/// Why a port cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) number: u16,
    pub(super) errno: Errno,
}

/// How many descriptors it takes to keep this port.
pub(super) fn cost(port: &Port, host: Six) -> u64 {
    let Place { at, loopback, .. } = Place::of(port, host);
    (u64::from(at.is_some()) + u64::from(loopback)) * u64::from(port.host().count())
}

/// Keeps a port, all of it or nothing.
pub(super) fn hold(port: &Port, host: Six) -> Result<Held, Refused> {
    let place = Place::of(port, host);
    let mut held = Held::default();
    for (number, to) in port.pairs() {
        place.hold(port.protocol(), number, to, &mut held).map_err(|errno| Refused { number, errno })?;
    }
    Ok(held)
}

/// What is bound for a port.
struct Place {
    /// Unless it gets a listener alone.
    at: Option<IpAddr>,
    /// One socket for all addresses of both families.
    both: bool,
    /// `::1` gets a listener.
    loopback: bool,
}

impl Place {
    fn of(port: &Port, host: Six) -> Self {
        let (four, six) = (Ipv4Addr::UNSPECIFIED.into(), IpAddr::from(Ipv6Addr::UNSPECIFIED));
        if port.protocol() == Protocol::Sctp {
            // To ask for a socket of it has the kernel load it, and hardly a host speaks it.
            return Self { at: None, both: false, loopback: false };
        }
        match port.address() {
            None if host.sockets => Self { at: Some(six), both: true, loopback: host.loopback },
            None => Self { at: Some(four), both: false, loopback: false },
            Some(at) if at == Ipv6Addr::LOCALHOST => Self { at: None, both: false, loopback: true },
            Some(at) => Self { at: Some(at), both: false, loopback: at == six && host.loopback },
        }
    }

    fn hold(&self, protocol: Protocol, number: u16, to: u16, held: &mut Held) -> Result<(), Errno> {
        let kept = self.at.map(|at| keep(protocol, SocketAddr::new(at, number), self.both)).transpose()?;
        if self.loopback {
            let socket = beside(kept.as_ref(), |shares| listener(protocol, number, shares))?;
            held.listeners.push(Arc::new(Listener { socket, protocol, to }));
        }
        held.sockets.extend(kept);
        Ok(())
    }
}

/// A socket at a port of `::1`; whether the port is held at all addresses by another one of ours, which shares it now.
fn listener(protocol: Protocol, number: u16, shares: bool) -> Result<OwnedFd, Errno> {
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, number));
    let socket = open(protocol, at.ip(), false)?;
    if protocol == Protocol::Tcp {
        // One that listens is alone at its port all the same, and its connections do not keep the next one from it when they are
        // closed.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &at)?;
        listen(&socket, BACKLOG)?;
    } else {
        sockopt::set_socket_reuseaddr(&socket, shares)?;
        bind(&socket, &at)?;
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}

/// Makes a socket at one address of a port that another one may hold at all of them.
///
/// Two sockets get both at once only while both say that they would share. For these few calls anybody who says so, too, can
/// get in; afterwards nobody can.
fn beside(
    all: Option<&OwnedFd>,
    make: impl FnOnce(bool) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let Some(all) = all else { return make(false) };
    sockopt::set_socket_reuseaddr(all, true)?;
    let made = make(true);
    sockopt::set_socket_reuseaddr(all, false)?;
    made
}

/// A socket that nobody can be beside.
fn keep(protocol: Protocol, at: SocketAddr, both: bool) -> Result<OwnedFd, Errno> {
    let socket = open(protocol, at.ip(), both)?;
    match bind(&socket, &at) {
        // Connections of a server that ended a moment ago (TIME_WAIT) give way to who would share the port, but no server does.
        Err(Errno::ADDRINUSE) if protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &at)?;
            sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        bound => bound?,
    }
    if protocol == Protocol::Udp {
        // For datagrams that come while no rule leads them away: the kernel makes it the least that it has.
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    Ok(socket)
}

/// A socket for addresses of this one's family, or of both.
fn open(protocol: Protocol, at: IpAddr, both: bool) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !both)?;
    }
    Ok(socket)
}
