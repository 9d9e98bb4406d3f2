//! The tables of nftables, by their own netlink (linux/netfilter/nf_tables.h).

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{
    NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE, NFT_MSG_GETCHAIN,
    NFT_MSG_GETTABLE, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};

const HEADER: usize = 16;
/// Attributes: the name of a table, and of a chain the table, what is there in base chains only, the policy and the number
/// of rules.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const ACCEPT: [u8; 4] = 1u32.to_be_bytes();
/// The kernel sets it in the kinds of nested attributes.
const NESTED: u16 = 1 << 15;
/// `struct nfgenmsg`, of a family, a version and, in network order, a resource.
const GENERIC: usize = 4;
const REQUEST: u16 = NLM_F_REQUEST as u16;

/// The names of all tables, of every family, in order. Empty where the kernel has no nftables.
///
/// A table that has chains, none of which does anything, is passed over: the program `iptables` makes such ones and removes
/// them never.
pub fn tables() -> io::Result<Vec<String>> {
    let chains = dump(NFT_MSG_GETCHAIN)?;
    let is_idle = |family: u8, table: &[u8]| {
        let mut own = chains
            .iter()
            .filter(|(of, chain)| *of == family && attribute(chain, CHAIN_TABLE) == Some(table))
            .peekable();
        own.peek().is_some() && own.all(|(_, chain)| does_nothing(chain))
    };
    let mut names = Vec::new();
    for (family, table) in dump(NFT_MSG_GETTABLE)? {
        if let Some(name) = attribute(&table, TABLE_NAME).filter(|name| !is_idle(family, name)) {
            names.push(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether packets pass a chain as if it were not there.
fn does_nothing(chain: &[u8]) -> bool {
    attribute(chain, CHAIN_HOOK).is_some()
        && attribute(chain, CHAIN_POLICY) == Some(&ACCEPT)
        && attribute(chain, CHAIN_USE) == Some(&[0; 4])
}

/// The family and the attributes of everything of a kind.
fn dump(kind: i32) -> io::Result<Vec<(u8, Vec<u8>)>> {
    let Ok(socket) = socket() else { return Ok(Vec::new()) };
    socket.send(&message(of_nft(kind), REQUEST | NLM_F_DUMP as u16, 0), 0)?;
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for (kind, body) in messages(&bytes) {
            match i32::from(kind) {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error(body)),
                _ => found.extend(body.first().copied().zip(body.get(GENERIC..).map(<[u8]>::to_vec))),
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

/// The value of the attribute of this kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & !NESTED;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn error(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}
