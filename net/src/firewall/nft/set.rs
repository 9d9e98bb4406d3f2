//! The sets and maps that the rules look into, and the elements in them. All that tells one network or endpoint from another
//! stands here; the rules are the same for all.

use std::net::IpAddr;

use mica_core::network::{InterfaceName, Mark};

use super::nfta;
use crate::firewall::nfnetlink::{Attributes, attributes, find};

/// The two families of addresses, as nftables numbers and measures them.
pub(super) use mica_core::network::Family;

/// What nftables must know of a family.
pub(super) trait Measures {
    fn nfproto(self) -> u8;
    /// How many bytes an address has.
    fn address(self) -> u32;
}

impl Measures for Family {
    fn nfproto(self) -> u8 {
        match self {
            Self::V4 => libc::NFPROTO_IPV4 as u8,
            Self::V6 => libc::NFPROTO_IPV6 as u8,
        }
    }

    fn address(self) -> u32 {
        u32::from(self.bits()) / 8
    }
}

/// In which of the engine's two tables something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// Packets of both families that the host handles.
    Inet,
    /// Frames that cross a bridge.
    Bridge,
}

impl Layer {
    pub(super) const ALL: [Self; 2] = [Self::Inet, Self::Bridge];

    pub(super) const fn nfproto(self) -> i32 {
        match self {
            Self::Inet => libc::NFPROTO_INET,
            Self::Bridge => libc::NFPROTO_BRIDGE,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

/// A set, or a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Set {
    /// Bridges of this engine.
    Bridges,
    /// Those of internal networks.
    Internal,
    /// Twice the name of a bridge whose endpoints reach each other.
    Together,
    /// Bridges, and which chain decides on what comes from there.
    From,
    /// Bridges, and which chain decides on what goes there from none of them.
    To,
    /// Families in which the host forwards on our account alone.
    Closed,
    /// Twice the name of an interface of others: what a pair of names is looked up in to see whether they are the same. Rules
    /// fill it, and their elements bear no mark.
    Same,
    /// Addresses of endpoints.
    Addresses(Family),
    /// The same, each with the bridge behind which it is.
    Home(Family),
    /// Those that leave with the host's address.
    Masqueraded(Family),
    /// Ports that are published at every address of the host, and where they lead.
    Published(Family),
    /// Those that are published at one address.
    PublishedAt(Family),
    /// Ports of bridges that are endpoints.
    Ports,
    /// The same, each with the hardware address that it may use.
    Hardware,
    /// The same, with the network addresses that it may use; those of IPv4 behind the hardware address.
    Sources(Family),
}

/// A type of nftables, by its number there (`enum datatypes` of nft) and its length in bytes. The kernel needs the length
/// only; the number is how `nft list` knows to print it.
type Kind = (u32, u32);

const NFPROTO: Kind = (2, 1);
const IPV4: Kind = (7, 4);
const IPV6: Kind = (8, 16);
const ETHER: Kind = (9, 6);
const PROTOCOL: Kind = (12, 1);
const SERVICE: Kind = (13, 2);
const IFNAME: Kind = (41, libc::IFNAMSIZ as u32);
/// Its length is the kernel's own business.
const VERDICT: Kind = (libc::NFT_DATA_VERDICT, 0);

const fn address(family: Family) -> Kind {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

/// User data of a set whose keys nft has to print as numbers of the host's byte order: it takes names of interfaces for such.
const HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1_u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

impl Set {
    /// Those that say something of networks.
    pub(super) const OF_NETWORKS: [Self; 5] =
        [Self::Bridges, Self::Internal, Self::Together, Self::From, Self::To];

    /// Those that say something of endpoints.
    pub(super) const OF_ENDPOINTS: [Self; 14] = [
        Self::Published(Family::V4),
        Self::Published(Family::V6),
        Self::PublishedAt(Family::V4),
        Self::PublishedAt(Family::V6),
        Self::Addresses(Family::V4),
        Self::Addresses(Family::V6),
        Self::Home(Family::V4),
        Self::Home(Family::V6),
        Self::Masqueraded(Family::V4),
        Self::Masqueraded(Family::V6),
        Self::Ports,
        Self::Hardware,
        Self::Sources(Family::V4),
        Self::Sources(Family::V6),
    ];

    pub(super) fn all() -> impl Iterator<Item = Self> {
        [Self::Closed, Self::Same].into_iter().chain(Self::OF_NETWORKS).chain(Self::OF_ENDPOINTS)
    }

    pub(super) const fn layer(self) -> Layer {
        match self {
            Self::Ports | Self::Hardware | Self::Sources(_) => Layer::Bridge,
            _ => Layer::Inet,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bridges => "bridges",
            Self::Internal => "internal",
            Self::Together => "together",
            Self::From => "from",
            Self::To => "to",
            Self::Closed => "closed",
            Self::Same => "same",
            Self::Addresses(Family::V4) => "addresses4",
            Self::Addresses(Family::V6) => "addresses6",
            Self::Home(Family::V4) => "home4",
            Self::Home(Family::V6) => "home6",
            Self::Masqueraded(Family::V4) => "masqueraded4",
            Self::Masqueraded(Family::V6) => "masqueraded6",
            Self::Published(Family::V4) => "published4",
            Self::Published(Family::V6) => "published6",
            Self::PublishedAt(Family::V4) => "published_at4",
            Self::PublishedAt(Family::V6) => "published_at6",
            Self::Ports => "ports",
            Self::Hardware => "hardware",
            Self::Sources(Family::V4) => "sources4",
            Self::Sources(Family::V6) => "sources6",
        }
    }

    fn key(self) -> Vec<Kind> {
        match self {
            Self::Bridges | Self::Internal | Self::From | Self::To | Self::Ports => vec![IFNAME],
            Self::Together | Self::Same => vec![IFNAME, IFNAME],
            Self::Closed => vec![NFPROTO],
            Self::Addresses(family) | Self::Masqueraded(family) => vec![address(family)],
            Self::Home(family) => vec![address(family), IFNAME],
            Self::Published(_) => vec![PROTOCOL, SERVICE],
            Self::PublishedAt(family) => vec![address(family), PROTOCOL, SERVICE],
            Self::Hardware => vec![IFNAME, ETHER],
            Self::Sources(Family::V4) => vec![IFNAME, ETHER, IPV4],
            Self::Sources(Family::V6) => vec![IFNAME, IPV6],
        }
    }

    fn value(self) -> Vec<Kind> {
        match self {
            Self::Published(family) | Self::PublishedAt(family) => vec![address(family), SERVICE],
            _ if self.decides() => vec![VERDICT],
            _ => Vec::new(),
        }
    }

    /// Whether it is a map of what is done with a packet: goes on in the chain whose name its elements have for their value.
    const fn decides(self) -> bool {
        matches!(self, Self::From | Self::To)
    }

    /// Whether rules add to it. What they did not add again for a minute goes.
    const fn learns(self) -> bool {
        matches!(self, Self::Same)
    }

    /// The set itself, as the kernel is told of it. `id` tells it from others of the same transaction.
    pub(super) fn declared(self, table: &str, id: u32) -> Attributes {
        let (key, value) = (self.key(), self.value());
        let map = if value.is_empty() { 0 } else { libc::NFT_SET_MAP };
        let learns = if self.learns() { libc::NFT_SET_EVAL | libc::NFT_SET_TIMEOUT } else { 0 };
        let set = Attributes::new()
            .text(nfta::SET_TABLE, table)
            .text(nfta::SET_NAME, self.name())
            .number(nfta::SET_FLAGS, (map | learns) as u32)
            .number(nfta::SET_KEY_TYPE, number(&key))
            .number(nfta::SET_KEY_LEN, length(&key))
            .number(nfta::SET_ID, id);
        let set = if self.learns() {
            const MINUTE: u64 = 60_000;
            set.nest(nfta::SET_DESC, &Attributes::new().number(nfta::SET_DESC_SIZE, 4096))
                .bytes(nfta::SET_TIMEOUT, &MINUTE.to_be_bytes())
        } else {
            set
        };
        let set = if key == [IFNAME] { set.bytes(nfta::SET_USERDATA, &HOST_ORDER) } else { set };
        if value.is_empty() {
            set
        } else {
            set.number(nfta::SET_DATA_TYPE, number(&value)).number(nfta::SET_DATA_LEN, length(&value))
        }
    }
}

/// The number of several types one behind the other, of six bits each.
fn number(kinds: &[Kind]) -> u32 {
    kinds.iter().fold(0, |number, kind| number << 6 | kind.0)
}

/// How long they are together: each begins at a register of four bytes.
fn length(kinds: &[Kind]) -> u32 {
    match kinds {
        [(_, length)] => *length,
        kinds => kinds.iter().map(|kind| kind.1.next_multiple_of(4)).sum(),
    }
}

/// Something in a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Element {
    pub(super) set: Set,
    pub(super) key: Vec<u8>,
    /// What a map has for the key; nothing in a set.
    pub(super) value: Vec<u8>,
    pub(super) mark: Mark,
}

impl Element {
    pub(super) fn new(set: Set, mark: Mark, key: &[&[u8]], value: &[&[u8]]) -> Self {
        Self { set, key: joined(key), value: joined(value), mark }
    }

    /// Appends it to a list of elements, with its mark as a comment.
    pub(super) fn write(&self, list: Attributes, comment: &[u8]) -> Attributes {
        list.within(nfta::LIST_ELEM, |element| {
            let element = self.write_key(element);
            let element = match self.value.is_empty() {
                true => element,
                false => element.within(nfta::SET_ELEM_DATA, |data| self.write_value(data)),
            };
            element.bytes(nfta::SET_ELEM_USERDATA, comment)
        })
    }

    /// Appends its key alone, to look for it or to delete it.
    pub(super) fn write_name(&self, list: Attributes) -> Attributes {
        list.within(nfta::LIST_ELEM, |element| self.write_key(element))
    }

    fn write_key(&self, element: Attributes) -> Attributes {
        element.within(nfta::SET_ELEM_KEY, |key| key.bytes(nfta::DATA_VALUE, &self.key))
    }

    fn write_value(&self, data: Attributes) -> Attributes {
        if !self.set.decides() {
            return data.bytes(nfta::DATA_VALUE, &self.value);
        }
        let goto = |verdict: Attributes| {
            let verdict = verdict.number(nfta::VERDICT_CODE, libc::NFT_GOTO as u32);
            verdict.bytes(nfta::VERDICT_CHAIN, &self.value)
        };
        data.within(nfta::DATA_VERDICT, goto)
    }

    /// The elements in an answer about this set that bear a mark.
    pub(super) fn read(set: Set, answer: &[u8]) -> Vec<Self> {
        let elements = find(answer, nfta::SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        attributes(elements).filter_map(|(_, element)| Self::read_one(set, element)).collect()
    }

    fn read_one(set: Set, element: &[u8]) -> Option<Self> {
        let key = find(find(element, nfta::SET_ELEM_KEY)?, nfta::DATA_VALUE)?.to_vec();
        let value = find(element, nfta::SET_ELEM_DATA)
            .and_then(|data| match set.decides() {
                true => find(find(data, nfta::DATA_VERDICT)?, nfta::VERDICT_CHAIN)?.strip_suffix(&[0]),
                false => find(data, nfta::DATA_VALUE),
            })
            .unwrap_or_default()
            .to_vec();
        Some(Self { set, key, value, mark: marked(find(element, nfta::SET_ELEM_USERDATA)?)? })
    }
}

/// Fields one behind the other, as the registers hold them: a single one as it is, of several each filled up to four bytes.
fn joined(fields: &[&[u8]]) -> Vec<u8> {
    if let [field] = fields {
        return field.to_vec();
    }
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend(*field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// A name as the kernel compares it: filled up with NULs.
pub(super) fn ifname(name: &InterfaceName) -> [u8; libc::IFNAMSIZ] {
    let mut bytes = [0; libc::IFNAMSIZ];
    for (byte, letter) in bytes.iter_mut().zip(name.as_str().bytes()) {
        *byte = letter;
    }
    bytes
}

/// An address, in the network's byte order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The number under which nft keeps a comment in the user data of tables, chains, rules and elements alike.
const COMMENT: u8 = 0;

/// The mark as a comment, which `nft list` shows.
pub(super) fn comment(mark: &Mark) -> Vec<u8> {
    let text = mark.to_string();
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    let mut bytes = vec![COMMENT, length];
    bytes.extend(text.bytes());
    bytes.push(0);
    bytes
}

/// The mark in user data, where there is one.
pub(super) fn marked(userdata: &[u8]) -> Option<Mark> {
    let (&[kind, length], rest) = userdata.split_first_chunk()?;
    let text = rest.get(..usize::from(length))?.strip_suffix(&[0])?;
    std::str::from_utf8(text).ok().filter(|_| kind == COMMENT)?.parse().ok()
}
