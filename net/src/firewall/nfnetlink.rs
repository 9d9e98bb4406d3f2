//! Netfilter's netlink: requests, answers and transactions, over one socket.
//!
//! The crates of rtnetlink's family know links and routes; of netfilter's subsystems only the few messages that a firewall needs
//! are made here, from attributes as the kernel's headers number them (`linux/netfilter/nf_tables.h`, `nfnetlink_conntrack.h`).

mod wire;

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::kept::{Connection, Kept};
pub(crate) use wire::{Attributes, Message, Parsed, attributes, find, number, text};

/// A receive buffer that any part of a dump fits: the kernel makes none of more than 32 KiB.
const BUFFER: usize = 1 << 16;

/// A connection to the netfilter of one network namespace, the one that the thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Netfilter {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

/// Connections that are kept for the next call: where rules were deleted, closing one waits for a grace period of the kernel, some
/// 15 ms.
pub(crate) type Connections = Kept<Netfilter>;

impl Connection for Netfilter {
    const TO: &str = "netfilter";

    fn open() -> io::Result<Self> {
        Self::open()
    }
}

/// A transaction that was not made: nothing of it stands.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Which of the messages was refused first; `None` where it was the transaction as such.
    pub(crate) message: Option<usize>,
    pub(crate) error: io::Error,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self { message: None, error }
    }
}

impl Netfilter {
    /// Connects to the netfilter of the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_NETFILTER)?;
        // An error would else carry the whole message that it is about, and a long one is lost for want of room.
        socket.set_cap_ack(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), sequence: 0 })
    }

    /// Sends a request that has one answer. `None` where there is no such thing.
    pub(crate) fn get(&mut self, message: &Message) -> io::Result<Option<Parsed>> {
        match self.ask(message, 0) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            answer => answer,
        }
    }

    /// Sends a request whose answer says only whether it was done.
    pub(crate) fn tell(&mut self, message: &Message) -> io::Result<()> {
        self.ask(message, libc::NLM_F_ACK).map(drop)
    }

    fn ask(&mut self, message: &Message, flags: i32) -> io::Result<Option<Parsed>> {
        let sequence = self.next();
        self.send(&message.encode(sequence, libc::NLM_F_REQUEST | flags))?;
        loop {
            for part in self.receive(0)? {
                match part? {
                    wire::Part::Answer(of, parsed) if of == sequence => return Ok(Some(parsed)),
                    wire::Part::Status(of, 0) if of == sequence => return Ok(None),
                    wire::Part::Status(of, errno) if of == sequence => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Everything of a kind, at one moment: what changed meanwhile is read again. Of nothing there is nothing.
    pub(crate) fn dump(&mut self, message: &Message) -> io::Result<Vec<Parsed>> {
        /// Any change of any rule of the host counts, so a few are to be expected.
        const TRIES: u32 = 1000;
        for _ in 0..TRIES {
            match self.try_dump(message) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                done => return done,
            }
        }
        Err(io::Error::other("the rules of this host change too fast to be read"))
    }

    fn try_dump(&mut self, message: &Message) -> io::Result<Vec<Parsed>> {
        let sequence = self.next();
        self.send(&message.encode(sequence, libc::NLM_F_REQUEST | libc::NLM_F_DUMP))?;
        let (mut found, mut torn) = (Vec::new(), false);
        loop {
            for part in self.receive(0)? {
                match part? {
                    wire::Part::Answer(of, parsed) if of == sequence => found.push(parsed),
                    wire::Part::Torn(of) if of == sequence => torn = true,
                    wire::Part::Status(of, 0) if of == sequence => {
                        return if torn { Err(io::ErrorKind::Interrupted.into()) } else { Ok(found) };
                    }
                    wire::Part::Status(of, errno) if of == sequence => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Does all of these changes to nftables, or none of them. Without a message it does nothing.
    pub(crate) fn transact(&mut self, messages: &[Message]) -> Result<(), Refused> {
        if messages.is_empty() {
            return Ok(());
        }
        let begin = self.next();
        let mut bytes = Vec::with_capacity(1024);
        wire::batch(&mut bytes, libc::NFNL_MSG_BATCH_BEGIN, begin);
        for (place, message) in (1..).zip(messages) {
            let ack = if place == messages.len() { libc::NLM_F_ACK } else { 0 };
            let sequence = self.next();
            message.append(&mut bytes, sequence, libc::NLM_F_REQUEST | ack);
        }
        let end = self.next();
        wire::batch(&mut bytes, libc::NFNL_MSG_BATCH_END, end);
        self.send(&bytes)?;
        self.outcome(begin, messages.len())
    }

    /// What became of a transaction of so many messages. The kernel has made it, and queued every answer, when `send` returns.
    fn outcome(&mut self, begin: u32, messages: usize) -> Result<(), Refused> {
        let mut refused: Option<Refused> = None;
        let (mut made, mut last) = (false, false);
        while !last {
            let parts = match self.receive(libc::MSG_DONTWAIT) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                parts => parts?,
            };
            for part in parts {
                let wire::Part::Status(of, errno) = part? else { continue };
                // 0 is the transaction as such.
                let place = of.wrapping_sub(begin) as usize;
                // They come in the order of the messages, behind that of the transaction as such.
                last |= place == messages;
                match errno {
                    0 => made |= place == messages,
                    _ if refused.is_none() => {
                        let message = place.checked_sub(1).filter(|place| *place < messages);
                        refused = Some(Refused { message, error: io::Error::from_raw_os_error(errno) });
                    }
                    _ => {}
                }
            }
        }
        match refused {
            Some(refused) => Err(refused),
            None if made => Ok(()),
            None => Err(io::Error::other("the kernel did not say what became of the transaction").into()),
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        use rustix::net::sockopt;
        // A transaction is one datagram, which the socket's buffer must hold whole.
        if bytes.len() > BUFFER {
            let room = bytes.len() + BUFFER;
            sockopt::set_socket_send_buffer_size_force(&self.socket, room)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, room))?;
        }
        let sent = self.socket.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&mut self, flags: i32) -> io::Result<Vec<io::Result<wire::Part>>> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, flags) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(wire::parts(&self.buffer)),
            }
        }
    }
}
