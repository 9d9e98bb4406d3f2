//! Rules as the kernel takes them: expressions that load fields of a packet into registers, compare them and decide.

use super::nfta;
use super::set::{Family, Measures, Set};
use crate::firewall::nfnetlink::Attributes;

/// The first of the registers of 4 bytes that fields are loaded into.
const FIRST: u32 = libc::NFT_REG32_00 as u32;

/// What is known of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    /// The name of the interface that it came in by: of the bridge in the family `inet`, of its port in `bridge`.
    In,
    /// The name of the interface that it leaves by.
    Out,
    /// The group of the interface that it came in by.
    InGroup,
    OutGroup,
    /// `NFPROTO_*`.
    Family,
    /// The protocol above IP.
    Protocol,
    /// The type that its Ethernet header names.
    EtherType,
    /// So many bytes from so far into this header (`NFT_PAYLOAD_*`).
    Header {
        base: i32,
        offset: u32,
        length: u32,
    },
    /// 0 where it goes the way that its connection was opened, else 1.
    Direction,
    /// What kind of address it goes to (`RTN_*`), by the host's routes.
    Destination,
}

impl Field {
    pub(super) const fn network(offset: u32, length: u32) -> Self {
        Self::Header { base: libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length }
    }

    pub(super) const fn transport(offset: u32, length: u32) -> Self {
        Self::Header { base: libc::NFT_PAYLOAD_TRANSPORT_HEADER, offset, length }
    }

    pub(super) const fn link(offset: u32, length: u32) -> Self {
        Self::Header { base: libc::NFT_PAYLOAD_LL_HEADER, offset, length }
    }

    /// How many registers of 4 bytes it takes.
    const fn registers(self) -> u32 {
        match self {
            Self::In | Self::Out => libc::IFNAMSIZ as u32 / 4,
            Self::Header { length, .. } => length.div_ceil(4),
            _ => 1,
        }
    }

    fn load(self, register: u32) -> (&'static str, Attributes) {
        let into = |name, key: i32| (name, Attributes::new().number(1, register).number(2, key as u32));
        match self {
            Self::In => into("meta", libc::NFT_META_IIFNAME),
            Self::Out => into("meta", libc::NFT_META_OIFNAME),
            Self::InGroup => into("meta", libc::NFT_META_IIFGROUP),
            Self::OutGroup => into("meta", libc::NFT_META_OIFGROUP),
            Self::Family => into("meta", libc::NFT_META_NFPROTO),
            Self::Protocol => into("meta", libc::NFT_META_L4PROTO),
            Self::EtherType => into("meta", libc::NFT_META_PROTOCOL),
            Self::Direction => into("ct", libc::NFT_CT_DIRECTION),
            Self::Header { base, offset, length } => {
                let (name, data) = into("payload", base);
                (name, data.number(3, offset).number(4, length))
            }
            Self::Destination => {
                const ADDRTYPE: i32 = 3;
                const DADDR: u32 = 1 << 1;
                let (name, data) = into("fib", ADDRTYPE);
                (name, data.number(3, DADDR))
            }
        }
    }
}

/// Flags of the packet's connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Connection {
    /// It was answered already, or belongs to one that was.
    Known,
    /// Its destination was translated.
    Translated,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// A rule: its expressions, in their order. Each condition ends it for the packets that do not meet it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule(Attributes);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn expressions(&self) -> &Attributes {
        &self.0
    }

    /// The field begins with these bytes.
    pub(super) fn when(self, field: Field, value: &[u8]) -> Self {
        self.compare(field, libc::NFT_CMP_EQ, value)
    }

    pub(super) fn unless(self, field: Field, value: &[u8]) -> Self {
        self.compare(field, libc::NFT_CMP_NEQ, value)
    }

    pub(super) fn family(self, family: Family) -> Self {
        self.when(Field::Family, &[family.nfproto()])
    }

    /// The connection has any of the flags.
    pub(super) fn connection(self, flags: Connection) -> Self {
        const ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        let (key, mask) = match flags {
            Connection::Known => (libc::NFT_CT_STATE, ESTABLISHED_OR_RELATED),
            Connection::Translated => (libc::NFT_CT_STATUS, IPS_DST_NAT),
        };
        let load = Attributes::new().number(1, FIRST).number(2, key as u32);
        let and = Attributes::new()
            .number(nfta::BITWISE_SREG, FIRST)
            .number(nfta::BITWISE_DREG, FIRST)
            .number(nfta::BITWISE_LEN, 4)
            .nest(nfta::BITWISE_MASK, &value(&mask.to_ne_bytes()))
            .nest(nfta::BITWISE_XOR, &value(&[0; 4]));
        self.then("ct", &load).then("bitwise", &and).cmp(libc::NFT_CMP_NEQ, &[0; 4])
    }

    /// The fields together are an element of the set.
    pub(super) fn among(self, fields: &[Field], set: Set) -> Self {
        self.lookup(fields, set, 0)
    }

    pub(super) fn not_among(self, fields: &[Field], set: Set) -> Self {
        self.lookup(fields, set, libc::NFT_LOOKUP_F_INV as u32)
    }

    /// Makes the fields an element of the set. A full one ends the rule.
    pub(super) fn learn(self, fields: &[Field], set: Set) -> Self {
        let learn = Attributes::new()
            .text(nfta::DYNSET_SET_NAME, set.name())
            .number(nfta::DYNSET_OP, libc::NFT_DYNSET_OP_UPDATE as u32)
            .number(nfta::DYNSET_SREG_KEY, FIRST);
        self.load(fields).then("dynset", &learn)
    }

    /// Translates the destination to the address and port that the map has for these fields, where it has any.
    pub(super) fn translate(self, fields: &[Field], map: Set, family: Family) -> Self {
        let look = Attributes::new()
            .text(nfta::LOOKUP_SET, map.name())
            .number(nfta::LOOKUP_SREG, FIRST)
            .number(nfta::LOOKUP_DREG, FIRST);
        let nat = Attributes::new()
            .number(nfta::NAT_TYPE, libc::NFT_NAT_DNAT as u32)
            .number(nfta::NAT_FAMILY, family.nfproto().into())
            .number(nfta::NAT_REG_ADDR_MIN, FIRST)
            .number(nfta::NAT_REG_PROTO_MIN, FIRST + family.address() / 4);
        self.load(fields).then("lookup", &look).then("nat", &nat)
    }

    /// Does what the map says of the fields; the next rule follows where it says nothing.
    pub(super) fn decide(self, fields: &[Field], map: Set) -> Self {
        let look = Attributes::new()
            .text(nfta::LOOKUP_SET, map.name())
            .number(nfta::LOOKUP_SREG, FIRST)
            .number(nfta::LOOKUP_DREG, libc::NFT_REG_VERDICT as u32);
        self.load(fields).then("lookup", &look)
    }

    /// Gives it the address of the interface by which it leaves.
    pub(super) fn masquerade(self) -> Self {
        self.then("masq", &Attributes::new())
    }

    pub(super) fn verdict(self, verdict: Verdict<'_>) -> Self {
        let (code, chain) = match verdict {
            Verdict::Accept => (libc::NF_ACCEPT, None),
            Verdict::Drop => (libc::NF_DROP, None),
            Verdict::Return => (libc::NFT_RETURN, None),
            Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
            Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
        };
        let mut verdict = Attributes::new().number(nfta::VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            verdict = verdict.text(nfta::VERDICT_CHAIN, chain);
        }
        let verdict = Attributes::new().nest(nfta::DATA_VERDICT, &verdict);
        self.then(
            "immediate",
            &Attributes::new()
                .number(nfta::IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32)
                .nest(nfta::IMMEDIATE_DATA, &verdict),
        )
    }

    fn compare(self, field: Field, how: i32, value: &[u8]) -> Self {
        self.load(&[field]).cmp(how, value)
    }

    fn cmp(self, how: i32, bytes: &[u8]) -> Self {
        let data = Attributes::new()
            .number(nfta::CMP_SREG, FIRST)
            .number(nfta::CMP_OP, how as u32)
            .nest(nfta::CMP_DATA, &value(bytes));
        self.then("cmp", &data)
    }

    fn lookup(self, fields: &[Field], set: Set, flags: u32) -> Self {
        let look = Attributes::new()
            .text(nfta::LOOKUP_SET, set.name())
            .number(nfta::LOOKUP_SREG, FIRST)
            .number(nfta::LOOKUP_FLAGS, flags);
        self.load(fields).then("lookup", &look)
    }

    /// Loads the fields one behind the other, each from the beginning of a register.
    fn load(mut self, fields: &[Field]) -> Self {
        let mut register = FIRST;
        for field in fields {
            let (name, data) = field.load(register);
            self = self.then(name, &data);
            register += field.registers();
        }
        self
    }

    fn then(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().text(nfta::EXPR_NAME, name).nest(nfta::EXPR_DATA, data);
        Self(self.0.nest(nfta::LIST_ELEM, &expression))
    }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(nfta::DATA_VALUE, bytes)
}
