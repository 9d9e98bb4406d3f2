//! Rules of `iptables-legacy`, which nfnetlink does not show: the blob that its program would edit, read and never written
//! (`linux/netfilter_ipv4/ip_tables.h`, and the same of IPv6).

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::foreign::{Chain, End, Seen};
use super::set::Family;
use crate::sys;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, which have the same numbers in IPv6.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;

const NAME: usize = 32;
/// `struct ipt_getinfo`: the name, then so many numbers.
const INFO: usize = NAME + 13 * 4;
/// `struct ipt_get_entries` up to its entries.
const ENTRIES: usize = 40;

/// Where the fields of an entry are, which begins with what it asks of a packet.
struct Layout {
    /// The names of both interfaces and their masks, of 16 bytes each.
    interfaces: usize,
    /// What follows the addresses, the names and the masks, up to the counters: none of it is asked for where it is zero.
    asked: usize,
    entry: usize,
}

const fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout { interfaces: 16, asked: 84, entry: 112 },
        Family::V6 => Layout { interfaces: 64, asked: 136, entry: 168 },
    }
}

/// The chain `FORWARD` of the table `filter`, and those that its rules lead to. Empty where there is no such table; asking for one
/// would make it.
pub(super) fn forwarding(family: Family) -> io::Result<Vec<Chain>> {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(names) {
        Ok(names) if names.lines().any(|name| name == "filter") => {}
        Ok(_) => return Ok(Vec::new()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let (entries, start) = blob(family)?;
    Ok(chains(&entries, start, &layout(family)))
}

/// The entries of the table, and where among them those of `FORWARD` begin.
fn blob(family: Family) -> io::Result<(Vec<u8>, usize)> {
    let (domain, level) = match family {
        Family::V4 => (AddressFamily::INET, libc::IPPROTO_IP),
        Family::V6 => (AddressFamily::INET6, libc::IPPROTO_IPV6),
    };
    let socket = socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
    let mut info = [0; INFO];
    info[..6].copy_from_slice(b"filter");
    sys::ask_option(socket.as_fd(), level, GET_INFO, &mut info)?;
    let word = |number: usize| native(&info, NAME + 4 * number).unwrap_or_default();
    let (start, size) = (word(1 + libc::NF_INET_FORWARD as usize), word(12));
    let mut entries = vec![0; ENTRIES + size as usize];
    entries[..6].copy_from_slice(b"filter");
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    sys::ask_option(socket.as_fd(), level, GET_ENTRIES, &mut entries)?;
    Ok((entries.split_off(ENTRIES), start as usize))
}

fn chains(entries: &[u8], start: usize, layout: &Layout) -> Vec<Chain> {
    let (mut starts, mut chains, mut at) = (vec![start], Vec::new(), 0);
    while let Some(&start) = starts.get(at) {
        let rules = rules(entries, start, layout);
        for next in rules.iter().filter_map(Seen::leads_to).filter_map(|name| name.parse().ok()) {
            if !starts.contains(&next) {
                starts.push(next);
            }
        }
        let name = if at == 0 { "FORWARD".to_owned() } else { start.to_string() };
        chains.push(Chain { name, rules });
        at += 1;
    }
    chains
}

/// The rules from here to the one that ends the chain, which asks for nothing: a policy, or a return.
fn rules(entries: &[u8], mut at: usize, layout: &Layout) -> Vec<Seen> {
    let mut rules = Vec::new();
    while let Some((rule, next, ends)) = entries.get(at..).and_then(|entry| read(entry, layout)) {
        rules.push(rule);
        if ends {
            break;
        }
        at += next;
    }
    rules
}

/// A rule, how long it is, and whether no packet gets past it.
fn read(entry: &[u8], layout: &Layout) -> Option<(Seen, usize, bool)> {
    let short = |at: usize| Some(usize::from(u16::from_ne_bytes(*entry.get(at..)?.first_chunk()?)));
    let (target, next) = (short(layout.asked + 4)?, short(layout.asked + 6)?);
    let interface = |number: usize| {
        let at = |number: usize| entry.get(layout.interfaces + 16 * number..)?.first_chunk::<16>();
        let asked = at(number + 2)?.iter().take_while(|byte| **byte != 0).count();
        Some(Some(at(number)?[..asked].to_vec()).filter(|name| !name.is_empty()))
    };
    let zero = |range: std::ops::Range<usize>| Some(entry.get(range)?.iter().all(|byte| *byte == 0));
    let addresses = zero(0..layout.interfaces)?;
    let others = zero(layout.interfaces + 64..layout.asked)?;
    let plain = matches_only_comments(entry.get(layout.entry..target)?);
    let name = entry.get(target + 2..target + 31)?.split(|byte| *byte == 0).next()?;
    let end = match name {
        b"" => verdict(native(entry, target + 32)? as i32),
        b"REJECT" => Some(End::Drop),
        _ => None,
    };
    let rule = Seen {
        comes_in: interface(0)?,
        goes_out: interface(1)?,
        narrower: !(addresses && others && plain),
        end,
    };
    let ends = name.is_empty() && (native(entry, target + 32)? as i32) < 0 && rule.asks_nothing();
    (next > 0).then_some((rule, next, ends))
}

/// A standard target: the place of another chain, or a verdict below zero. A return is none.
fn verdict(code: i32) -> Option<End> {
    match code {
        0.. => Some(End::To(code.to_string())),
        _ if code == -libc::NF_DROP - 1 => Some(End::Drop),
        _ if code == -libc::NF_ACCEPT - 1 => Some(End::Accept),
        _ => None,
    }
}

fn matches_only_comments(mut matches: &[u8]) -> bool {
    while let Some(size) = matches.first_chunk().map(|size| usize::from(u16::from_ne_bytes(*size))) {
        let comment = matches.get(2..10) == Some(b"comment\0");
        match matches.get(size..) {
            Some(rest) if comment && size > 0 => matches = rest,
            _ => return false,
        }
    }
    true
}

fn native(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_make_no_sense_are_no_panic() {
        for family in [Family::V4, Family::V6] {
            for (length, byte) in [(0, 0), (1, 0), (400, 0), (400, 1), (400, 0x70), (400, 0xff)] {
                let entries = vec![byte; length];
                chains(&entries, 0, &layout(family));
                chains(&entries, length + 1, &layout(family));
            }
        }
    }
}
