//! Leads what a namespace sends to one of its own addresses and ports to another port, and the answers back.
//!
//! The ports are rewritten packet by packet, and connection tracking is kept out of it: a NAT rule would turn tracking on for all
//! of the container's traffic. The rules are in a table that belongs to our socket (`NFT_TABLE_F_OWNER`, Linux 5.12):
//! a `nft flush ruleset` in the container passes it over.
//!
//! A table goes with its owner's socket, and whoever closes that waits for a grace period of the kernel; unless it is to
//! outlive its owner (`NFT_TABLE_F_PERSIST`, Linux 6.9). Then it goes with the namespace, for which nobody waits.

mod message;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use mica_core::{Error, Result};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use message::{Batch, Expressions};

/// The table's name, in a namespace in which it is the only one of ours.
const TABLE: &str = "mica-names";
/// Its only chain.
const CHAIN: &str = "output";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A redirection. It lasts as long as this value.
#[derive(Debug)]
pub(crate) struct Redirect {
    owner: OwnedFd,
    /// It would outlive the socket.
    lasts: bool,
}

impl Redirect {
    /// Redirects UDP and TCP from `address:from` to `address:to`, in the calling thread's network namespace.
    pub(crate) fn raise(address: Ipv4Addr, from: u16, to: u16) -> Result<Self> {
        let order = |lasts| {
            let mut batch = Batch::new();
            batch.table_of_ours(TABLE, lasts);
            rules(&mut batch, address, from, to);
            let owner = socket()?;
            fulfil(&owner, batch)?;
            Ok(Self { owner, lasts })
        };
        // Tables that outlive their owner came with Linux 6.9.
        let raised = order(true).or_else(|_| order(false));
        raised.map_err(|e: Errno| Error::driver(format!("redirect port {from} by nftables"), e))
    }

    /// Leaves it to the end of the namespace, where the kernel has that, and so waits for nothing.
    pub(crate) fn leave(mut self) {
        self.lasts = false;
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        if self.lasts {
            let mut batch = Batch::new();
            batch.no_table(TABLE);
            // A table that is not there needs no removal.
            let _ = fulfil(&self.owner, batch);
        }
    }
}

fn rules(batch: &mut Batch, address: Ipv4Addr, from: u16, to: u16) {
    batch.output_chain(TABLE, CHAIN);
    batch.rule(TABLE, CHAIN, &Expressions::new().out_of_loopback_only());
    for (protocol, checksum) in [(UDP, 6), (TCP, 16)] {
        let there = Expressions::new().protocol(protocol).destination(address).destination_port(from);
        batch.rule(TABLE, CHAIN, &there.untracked().write_destination_port(to, checksum));
        let back = Expressions::new().protocol(protocol).source(address).source_port(to);
        batch.rule(TABLE, CHAIN, &back.untracked().write_source_port(from, checksum));
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))
}

fn fulfil(socket: &OwnedFd, batch: Batch) -> Result<(), Errno> {
    let (bytes, requests) = batch.finish();
    net::send(socket, &bytes, SendFlags::empty())?;
    acknowledged(socket, requests)
}

/// Reads the kernel's answers, which are there when the batch has been sent.
fn acknowledged(socket: &OwnedFd, messages: usize) -> Result<(), Errno> {
    let mut left = messages;
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let (length, _) = net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
        let answers = message::errors(&buffer[..length]);
        if let Some(&code) = answers.iter().find(|&&code| code != 0) {
            return Err(Errno::from_raw_os_error(-code));
        }
        left = left.checked_sub(answers.len().max(1)).ok_or(Errno::PROTO)?;
    }
    Ok(())
}
