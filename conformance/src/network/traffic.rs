//! Packets: who reaches whom, at which address, and as whom.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use mica_core::network::{Address, Protocol};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_ipv6_multicast_hops, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, recv, sendto, socket_with,
};

use super::{Namespace, kernel};
use crate::outcome::{Doing, Verdict, ensure};

/// How long what must arrive may take, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long is waited for what must not arrive. Where it does, it does within a millisecond.
const SILENCE: Duration = Duration::from_millis(300);
const QUESTION: &[u8] = b"is anybody there?";
const ANSWER: &[u8] = b"yes";
/// The type of the message (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;

/// The protocols that are tried.
pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// A client and a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    pub(crate) from: &'a Namespace,
    /// Where the client sends to.
    pub(crate) at: SocketAddr,
    pub(crate) to: &'a Namespace,
    /// Where the server listens, at every address.
    pub(crate) port: u16,
}

impl<'a> Way<'a> {
    /// The way to an address of the server's own.
    pub(crate) fn direct(from: &'a Namespace, to: &'a Namespace, address: IpAddr) -> Self {
        let port = 7000;
        Self { from, at: SocketAddr::new(address, port), to, port }
    }

    /// Fails unless the server is reached and its answer comes back, by every protocol.
    pub(crate) fn is_open(&self, what: &str) -> Verdict {
        PROTOCOLS.into_iter().try_for_each(|protocol| self.is_open_by(protocol, what).map(drop))
    }

    /// Fails unless the server is reached and its answer comes back. Answers whom the server saw.
    pub(crate) fn is_open_by(&self, protocol: Protocol, what: &str) -> Verdict<IpAddr> {
        let client = self.reaches(protocol, PATIENCE).doing(|| what)?;
        ensure!(client.is_some(), "{what}: {} is not reached by {protocol}", self.at);
        Ok(client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }

    /// Fails if the server is reached, by any protocol.
    pub(crate) fn is_closed(&self, what: &str) -> Verdict {
        PROTOCOLS.into_iter().try_for_each(|protocol| {
            let client = self.reaches(protocol, SILENCE).doing(|| what)?;
            ensure!(client.is_none(), "{what}: {} is reached by {protocol}", self.at);
            Ok(())
        })
    }

    /// Whom the server saw, unless nothing arrived in this time.
    fn reaches(&self, protocol: Protocol, patience: Duration) -> io::Result<Option<IpAddr>> {
        match protocol {
            Protocol::Udp => self.udp(patience),
            _ => self.tcp(patience),
        }
    }

    fn tcp(&self, patience: Duration) -> io::Result<Option<IpAddr>> {
        let listener = self.to.inside(|| TcpListener::bind(any(self.at.ip(), self.port)))?;
        set_socket_timeout(&listener, Timeout::Recv, Some(patience))?;
        let Ok(mut client) = self.from.inside(|| TcpStream::connect_timeout(&self.at, patience)) else {
            return Ok(None);
        };
        client.set_read_timeout(Some(patience))?;
        // Somebody else may have taken the connection.
        let Ok((mut server, seen)) = listener.accept() else { return Ok(None) };
        server.set_read_timeout(Some(patience))?;
        let mut asked = [0; QUESTION.len()];
        let mut told = [0; ANSWER.len()];
        let exchanged = client.write_all(QUESTION).and_then(|()| server.read_exact(&mut asked));
        let exchanged = exchanged.and_then(|()| server.write_all(ANSWER));
        let exchanged = exchanged.and_then(|()| client.read_exact(&mut told));
        Ok(exchanged.is_ok().then(|| seen.ip().to_canonical()))
    }

    fn udp(&self, patience: Duration) -> io::Result<Option<IpAddr>> {
        let server = self.to.inside(|| UdpSocket::bind(any(self.at.ip(), self.port)))?;
        server.set_read_timeout(Some(patience))?;
        let client = self.from.inside(|| UdpSocket::bind(any(self.at.ip(), 0)))?;
        client.set_read_timeout(Some(patience))?;
        let sent = client.connect(self.at).and_then(|()| client.send(QUESTION));
        if sent.is_err() {
            return Ok(None);
        }
        let mut buffer = [0; 64];
        let Ok((length, seen)) = server.recv_from(&mut buffer) else { return Ok(None) };
        let answered = buffer[..length] == *QUESTION
            && server.send_to(ANSWER, seen).is_ok()
            && client.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *ANSWER);
        Ok(answered.then(|| seen.ip().to_canonical()))
    }
}

/// Every address of the family that this one is of.
pub(crate) fn any(like: IpAddr, port: u16) -> SocketAddr {
    let every: IpAddr =
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(every, port)
}

/// What a machine's own root can do: in the namespace of the calling thread 127.0.0.0/8 leads to another host.
pub(crate) fn lead_loopback_to(gateway: IpAddr) -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")?;
    let own = "127.0.0.1/8".parse::<Address>().map_err(io::Error::other)?;
    kernel::remove_address("lo", own)?;
    kernel::add_route(own.subnet(), gateway)
}

/// Advertises, in the namespace of the calling thread and to all of a link, that this is a router; from an address of its own where
/// one is given.
pub(crate) fn advertise_router(link: &str, own: Option<Ipv6Addr>) -> io::Result<()> {
    // RFC 4861, 4.2: for half an hour.
    const ADVERTISEMENT: [u8; 16] = [ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let scope = kernel::link(link)?.map_or(0, |link| link.index);
    let socket = icmp6()?;
    set_ipv6_multicast_hops(&socket, 255)?;
    if let Some(own) = own {
        bind(&socket, &SocketAddrV6::new(own, 0, 0, scope))?;
    }
    let everyone = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, scope);
    sendto(&socket, &ADVERTISEMENT, SendFlags::empty(), &everyone)?;
    Ok(())
}

/// Hears of routers.
#[derive(Debug)]
pub(crate) struct RouterEars(OwnedFd);

impl RouterEars {
    /// In the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = icmp6()?;
        set_socket_timeout(&socket, Timeout::Recv, Some(SILENCE))?;
        Ok(Self(socket))
    }

    /// Whether one is advertised. Other messages may come, such as those that look for neighbours.
    pub(crate) fn hear(&self) -> io::Result<bool> {
        let mut message = [0; 64];
        loop {
            match recv(&self.0, &mut message, RecvFlags::empty()) {
                Ok(_) if message[0] == ROUTER_ADVERTISEMENT => return Ok(true),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn icmp6() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::INET6, SocketType::RAW, flags, Some(ipproto::ICMPV6))?)
}

/// A connection that stays, to see whether it does.
#[derive(Debug)]
pub(crate) struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    pub(crate) fn new(way: &Way<'_>) -> Verdict<Self> {
        let listener = way.to.inside(|| TcpListener::bind(any(way.at.ip(), way.port))).doing(|| "listen")?;
        set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE)).doing(|| "set a timeout")?;
        let client = way.from.inside(|| TcpStream::connect_timeout(&way.at, PATIENCE));
        let client = client.doing(|| format!("connect to {}", way.at))?;
        let (server, _) = listener.accept().doing(|| "accept a connection")?;
        server.set_read_timeout(Some(PATIENCE)).doing(|| "set a timeout")?;
        Ok(Self { client, server })
    }

    /// Fails unless data still comes through.
    pub(crate) fn lives(&mut self) -> Verdict {
        let mut asked = [0; QUESTION.len()];
        let sent = self.client.write_all(QUESTION).and_then(|()| self.server.read_exact(&mut asked));
        sent.doing(|| "send over a connection that was there before")
    }
}
