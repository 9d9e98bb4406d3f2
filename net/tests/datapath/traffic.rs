//! Servers that say who reached them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::namespace::Namespace;

/// Enough for a packet to arrive that can.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Enough to tell that none does. Each test that something stays out shows as well that it arrives where it may.
pub(crate) const BRIEF: Duration = Duration::from_millis(400);

/// A service at one port of a machine, in both protocols and families.
pub(crate) struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Server {
    /// At every address of the machine.
    pub(crate) fn new(machine: &Namespace, port: u16) -> Self {
        Self::at(machine, SocketAddr::new("::".parse().unwrap(), port))
    }

    pub(crate) fn at(machine: &Namespace, address: SocketAddr) -> Self {
        machine
            .run(|| Self { tcp: TcpListener::bind(address).unwrap(), udp: UdpSocket::bind(address).unwrap() })
    }

    /// The address that the server sees a TCP client of this machine have; `None` where it is not reached.
    pub(crate) fn tcp(&self, from: &Namespace, to: (&str, u16)) -> Option<IpAddr> {
        self.tcp_within(PATIENCE, from, to)
    }

    /// The same over UDP.
    pub(crate) fn udp(&self, from: &Namespace, to: (&str, u16)) -> Option<IpAddr> {
        self.udp_within(PATIENCE, from, to)
    }

    /// Whether a client of this machine is kept out, in both protocols.
    pub(crate) fn keeps_out(&self, from: &Namespace, to: (&str, u16)) -> bool {
        self.tcp_within(BRIEF, from, to).is_none() && self.udp_within(BRIEF, from, to).is_none()
    }

    fn tcp_within(&self, patience: Duration, from: &Namespace, to: (&str, u16)) -> Option<IpAddr> {
        let mut client = from.run(|| TcpStream::connect_timeout(&socket(to), patience)).ok()?;
        ready(&self.tcp, patience).then_some(())?;
        let (mut accepted, peer) = self.tcp.accept().unwrap();
        accepted.write_all(b"?").unwrap();
        client.set_read_timeout(Some(patience)).unwrap();
        client.read_exact(&mut [0]).ok()?;
        Some(peer.ip().to_canonical())
    }

    fn udp_within(&self, patience: Duration, from: &Namespace, to: (&str, u16)) -> Option<IpAddr> {
        let to = socket(to);
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
        let client = from.run(|| UdpSocket::bind((any, 0))).unwrap();
        exchange(&client, to, &self.udp, patience)
    }
}

/// One question and its answer over UDP, between sockets that are there already. The address that the server saw.
pub(crate) fn exchange(
    client: &UdpSocket,
    to: SocketAddr,
    server: &UdpSocket,
    patience: Duration,
) -> Option<IpAddr> {
    // From here on only what comes from there is taken for an answer, and a refusal is told.
    client.connect(to).ok()?;
    client.send(b"!").ok()?;
    ready(server, patience).then_some(())?;
    let (_, peer) = server.recv_from(&mut [0]).unwrap();
    server.send_to(b"?", peer).ok()?;
    ready(client, patience).then_some(())?;
    client.recv(&mut [0]).ok()?;
    Some(peer.ip().to_canonical())
}

/// Waits until there is something to read.
pub(crate) fn ready(socket: &impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap() == 1
}

fn socket((address, port): (&str, u16)) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}
