//! The tables of nftables, by their own netlink (linux/netfilter/nf_tables.h).

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{
    NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE, NFT_MSG_GETTABLE,
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};

const HEADER: usize = 16;
/// The attribute of a table's message that holds its name.
const TABLE_NAME: u16 = 1;
/// `struct nfgenmsg`, of a family, a version and, in network order, a resource.
const GENERIC: usize = 4;
const REQUEST: u16 = NLM_F_REQUEST as u16;

/// The names of all tables, of every family, in order. Empty where the kernel has no nftables.
pub fn tables() -> io::Result<Vec<String>> {
    let Ok(socket) = socket() else { return Ok(Vec::new()) };
    socket.send(&message(of_nft(NFT_MSG_GETTABLE), REQUEST | NLM_F_DUMP as u16, 0), 0)?;
    let mut names = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&bytes) {
            match i32::from(kind) {
                NLMSG_DONE => {
                    names.sort();
                    return Ok(names);
                }
                NLMSG_ERROR => return Err(error(body)),
                _ => names.extend(name(body.get(GENERIC..).unwrap_or_default())),
            }
        }
    }
}

/// Removes every table, as `nft flush ruleset` does. Where the kernel has no nftables there is none.
pub fn flush() -> io::Result<()> {
    let Ok(socket) = socket() else { return Ok(()) };
    let subsystem = NFNL_SUBSYS_NFTABLES as u16;
    let mut batch = message(NFNL_MSG_BATCH_BEGIN as u16, REQUEST, subsystem);
    batch.extend(message(of_nft(NFT_MSG_DELTABLE), REQUEST | NLM_F_ACK as u16, 0));
    batch.extend(message(NFNL_MSG_BATCH_END as u16, REQUEST, subsystem));
    socket.send(&batch, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let errors = messages(&bytes).filter(|(kind, _)| i32::from(*kind) == NLMSG_ERROR);
    errors.map(|(_, body)| error(body)).find(|e| e.raw_os_error() != Some(0)).map_or(Ok(()), Err)
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn of_nft(kind: i32) -> u16 {
    (NFNL_SUBSYS_NFTABLES << 8 | kind) as u16
}

fn message(kind: u16, flags: u16, resource: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + GENERIC);
    bytes.extend(((HEADER + GENERIC) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes
}

/// Each message's kind, and what follows its header.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The name among a table's attributes.
fn name(mut attributes: &[u8]) -> Option<String> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if kind == TABLE_NAME {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn error(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}
