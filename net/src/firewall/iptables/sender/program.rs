//! The program that looks at a frame, byte by byte.
//!
//! It is a row of demands: whatever fails one is dropped. A frame that ends before a byte that is looked at passes, because a
//! load beyond the end of a frame ends the program with 0, which means that; whoever receives such a frame finds its header
//! cut off and drops it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::Mac;

use crate::firewall::Guarded;

/// An instruction of the classic packet filter (kernel documentation, networking/filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    /// How many instructions a comparison skips where it holds, and where not.
    pub(super) yes: u8,
    pub(super) no: u8,
    pub(super) value: u32,
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_AT_INDEX: u16 = 0x50;
const ADD: u16 = 0x04;
const SHIFT_LEFT: u16 = 0x64;
const TO_INDEX: u16 = 0x07;
const SKIP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const END: u16 = 0x06;

/// `TC_ACT_OK` and `TC_ACT_SHOT`.
const PASS: u32 = 0;
const DROP: u32 = 2;

const ETHERNET_SOURCE: u32 = 6;
const ETHERNET_TYPE: u32 = 12;
const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;

const ARP_SENDER_HARDWARE: u32 = 14 + 8;
const ARP_SENDER: u32 = 14 + 14;
const IPV4_SOURCE: u32 = 14 + 12;
const IPV6_NEXT: u32 = 14 + 6;
const IPV6_SOURCE: u32 = 14 + 8;
/// What follows the header: the type of an ICMPv6 message, or which header follows that one.
const IPV6_BODY: u32 = 14 + 40;
const NEIGHBOUR_TARGET: u32 = IPV6_BODY + 8;

const ICMPV6: u32 = 58;
/// Hop-by-hop options, routing, destination options: headers before the message.
const EXTENSIONS: [u32; 3] = [0, 43, 60];
const ROUTER_ADVERTISEMENT: u32 = 134;
const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
const REDIRECT: u32 = 137;
/// Router solicitation, the first message of neighbour discovery; [`REDIRECT`] is the last.
const DISCOVERY: u32 = 133;

/// The program for what this endpoint sends.
pub(super) fn program(endpoint: &Guarded) -> Vec<Instruction> {
    let (v4, v6) = addresses(endpoint);
    let nobody4 = words4(Ipv4Addr::UNSPECIFIED);
    let nobody6 = words6(Ipv6Addr::UNSPECIFIED);
    let mut code = mac_is(ETHERNET_SOURCE, endpoint.mac);
    let mut arp = mac_is(ARP_SENDER_HARDWARE, endpoint.mac);
    // Whoever asks whether an address is free has none yet.
    arp.extend(one_of(ARP_SENDER, v4.iter().chain([&nobody4])));
    let mut ipv6 = discovery(&v6);
    ipv6.extend(one_of(IPV6_SOURCE, v6.iter().chain([&nobody6])));
    for (kind, demands) in [(ARP, arp), (IPV4, one_of(IPV4_SOURCE, &v4)), (IPV6, ipv6)] {
        code.push(load(LOAD_HALF, ETHERNET_TYPE));
        code.extend(when(kind, ended(demands, PASS)));
    }
    code.push(end(DROP));
    code
}

/// The addresses that the endpoint has, as the words that a frame holds.
fn addresses(endpoint: &Guarded) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let (mut v4, mut v6) = (Vec::new(), vec![words6(link_local(endpoint.mac))]);
    for address in &endpoint.addresses {
        match address {
            IpAddr::V4(address) => v4.push(words4(*address)),
            IpAddr::V6(address) => v6.push(words6(*address)),
        }
    }
    (v4, v6)
}

/// The address that the kernel gives an interface by itself (RFC 4291, appendix A).
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets().map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

fn words4(address: Ipv4Addr) -> Vec<u32> {
    vec![address.to_bits()]
}

fn words6(address: Ipv6Addr) -> Vec<u32> {
    address.octets().as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word)).collect()
}

/// Demands that no router is advertised, nobody redirected, and no address claimed that is another's. The messages of
/// neighbour discovery bear no extension headers (RFC 6980), so one behind such a header is there to be overlooked; the
/// kernel itself drops those in fragments.
fn discovery(own: &[Vec<u32>]) -> Vec<Instruction> {
    let mut message = vec![load(LOAD_BYTE, IPV6_BODY)];
    message.extend(when(ROUTER_ADVERTISEMENT, vec![end(DROP)]));
    message.extend(when(REDIRECT, vec![end(DROP)]));
    message.extend(when(NEIGHBOUR_ADVERTISEMENT, one_of(NEIGHBOUR_TARGET, own)));

    // The header's length is told in units of eight bytes, the first not counted.
    let mut hidden = vec![
        load(LOAD_BYTE, IPV6_BODY + 1),
        compute(ADD, 1),
        compute(SHIFT_LEFT, 3),
        compute(TO_INDEX, 0),
        load(LOAD_BYTE_AT_INDEX, IPV6_BODY),
        branch(IF_AT_LEAST, DISCOVERY, 0, 2),
        branch(IF_AT_LEAST, REDIRECT + 1, 1, 0),
    ];
    hidden.push(end(DROP));
    let mut behind = vec![load(LOAD_BYTE, IPV6_BODY)];
    for extension in EXTENSIONS {
        behind.extend(when(extension, vec![end(DROP)]));
    }
    behind.extend(when(ICMPV6, hidden));

    let mut code = Vec::new();
    for extension in EXTENSIONS {
        code.push(load(LOAD_BYTE, IPV6_NEXT));
        code.extend(when(extension, behind.clone()));
    }
    code.push(load(LOAD_BYTE, IPV6_NEXT));
    code.extend(when(ICMPV6, message));
    code
}

/// Demands this hardware address.
fn mac_is(offset: u32, mac: Mac) -> Vec<Instruction> {
    let [a, b, c, d, e, f] = mac.octets();
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from(u16::from_be_bytes([e, f])));
    vec![
        load(LOAD_WORD, offset),
        branch(IF_EQUAL, high, 0, 2),
        load(LOAD_HALF, offset + 4),
        branch(IF_EQUAL, low, 1, 0),
        end(DROP),
    ]
}

/// Demands one of these addresses.
fn one_of<'a>(offset: u32, addresses: impl IntoIterator<Item = &'a Vec<u32>>) -> Vec<Instruction> {
    let mut code = vec![end(DROP)];
    // From the last: each tries its address, and else goes on to what is there already.
    for words in addresses {
        let mut attempt = Vec::new();
        for (n, word) in (0..).zip(words) {
            let rest = 2 * (words.len() - n as usize - 1) + 1;
            attempt.push(load(LOAD_WORD, offset + 4 * n));
            attempt.push(branch(IF_EQUAL, *word, 0, u8::try_from(rest).unwrap_or(u8::MAX)));
        }
        attempt.push(skip(code.len()));
        attempt.append(&mut code);
        code = attempt;
    }
    code
}

/// Runs this where the value that was loaded is this one.
fn when(value: u32, then: Vec<Instruction>) -> Vec<Instruction> {
    let mut code = vec![branch(IF_EQUAL, value, 1, 0), skip(then.len())];
    code.extend(then);
    code
}

fn ended(mut code: Vec<Instruction>, how: u32) -> Vec<Instruction> {
    code.push(end(how));
    code
}

const fn load(code: u16, offset: u32) -> Instruction {
    compute(code, offset)
}

const fn compute(code: u16, value: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, value }
}

const fn branch(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

fn skip(count: usize) -> Instruction {
    compute(SKIP, u32::try_from(count).unwrap_or(u32::MAX))
}

const fn end(how: u32) -> Instruction {
    compute(END, how)
}
