//! What of the responder is inside the container's network namespace.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;
use std::{io, thread};

use mica_core::{Error, Result};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::redirect::Redirect;

/// Where a container's resolver is, as Docker has it; clients and scripts know this address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Where clients send their queries.
const DNS: u16 = 53;
/// Ports above those that the kernel chooses by itself (`ip_local_port_range`), and that no well-known service has.
const UNUSED_PORTS: std::ops::RangeInclusive<u16> = 61000..=65535;
/// How many ports are tried. Each is free but by the worst of luck.
const TRIES: usize = 16;

/// The sockets, and what leads to them.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
    pub(crate) way: Way,
}

/// How a query comes to the sockets.
#[derive(Debug)]
pub(crate) enum Way {
    /// They are at a port that nobody wants, and what is sent to port 53 goes there.
    Redirected(Redirect),
    /// They are at port 53, because of this.
    Bound(Error),
}

/// Opens the sockets in a network namespace, in which `lo` is up. The calling thread stays where it is.
pub(crate) fn open(namespace: BorrowedFd<'_>) -> Result<Inside> {
    let enter = || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::driver("enter the container's network namespace", e))?;
        listen()
    };
    thread::scope(|scope| {
        let name = "names-inside".to_owned();
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, enter);
        let ended = thread.map_err(Error::io(|| "start a thread for the name server"))?.join();
        ended.unwrap_or_else(|_| Err(Error::driver("open the name server's sockets", "the thread panicked")))
    })
}

/// A socket at `127.0.0.11:53` would keep the container's own name server from `0.0.0.0:53`: the kernel lets a
/// wildcard and an address of it share a port only when both sockets ask for that.
fn listen() -> Result<Inside> {
    let ((udp, tcp), port) = anywhere()?;
    match Redirect::raise(ADDRESS, DNS, port) {
        Ok(lasts) => Ok(Inside { udp, tcp, way: Way::Redirected(lasts) }),
        Err(why) => {
            let at = format!("listen at {ADDRESS}:{DNS}, for want of nftables ({why})");
            let (udp, tcp) = sockets(DNS).map_err(Error::io(|| at))?;
            Ok(Inside { udp, tcp, way: Way::Bound(why) })
        }
    }
}

fn anywhere() -> Result<((UdpSocket, TcpListener), u16)> {
    let doing = || format!("listen at {ADDRESS} in the container (its lo must be up)");
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..TRIES {
        let port = random_port().map_err(Error::io(doing))?;
        match sockets(port) {
            Ok(pair) => return Ok((pair, port)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(Error::io(doing)(error)),
        }
    }
    Err(Error::io(doing)(last))
}

fn random_port() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    let choices = UNUSED_PORTS.end() - UNUSED_PORTS.start() + 1;
    Ok(UNUSED_PORTS.start() + u16::from_ne_bytes(bytes) % choices)
}

fn sockets(port: u16) -> io::Result<(UdpSocket, TcpListener)> {
    let at = SocketAddrV4::new(ADDRESS, port);
    let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}
