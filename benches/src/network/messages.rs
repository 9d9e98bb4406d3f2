//! Messages to the kernel, byte by byte: the floor beneath every library.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};

use crate::Result;

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;

/// Messages that are handed over at once.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// How many of them the kernel answers.
    answers: usize,
}

impl Batch {
    /// Appends a message with what comes before its attributes, and with these.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: i32,
        head: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(head);
        attributes(&mut Attributes(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.answers += usize::from(flags & libc::NLM_F_ACK != 0);
        self
    }
}

/// The attributes of a message, or of one of its attributes.
#[derive(Debug)]
pub(crate) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.within(kind, value, |_| ())
    }

    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.within(kind | NESTED, &[], inside)
    }

    /// An attribute that is a head followed by attributes.
    pub(crate) fn within(
        &mut self,
        kind: u16,
        head: &[u8],
        inside: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(head);
        inside(&mut Attributes(self.0));
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// A connection with the kernel.
#[derive(Debug)]
pub(crate) struct Connection(OwnedFd);

impl Connection {
    /// For the network namespace that the calling thread is in.
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self> {
        let open = || {
            let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            Ok(Self(socket))
        };
        open().map_err(|e: nix::Error| format!("open a netlink socket: {e}"))
    }

    /// Hands the messages over, and reads the answers of those that are answered.
    pub(crate) fn tell(&self, batch: &Batch) -> Result<()> {
        let failed = |e: nix::Error| format!("ask the kernel: {e}");
        send(self.0.as_raw_fd(), &batch.bytes, MsgFlags::empty()).map_err(failed)?;
        let mut buffer = [0; 16 * 1024];
        let mut missing = batch.answers;
        while missing > 0 {
            let size = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(failed)?;
            let mut rest = &buffer[..size];
            while let (Some(length), Some(code)) = (word(rest, 0), word(rest, HEADER)) {
                if code != 0 {
                    return Err(failed(nix::Error::from_raw((code as i32).wrapping_neg())));
                }
                missing = missing.saturating_sub(1);
                rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
