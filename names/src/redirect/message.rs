//! Messages of nfnetlink, as far as a redirection needs them (`linux/netfilter/nf_tables.h`).

use std::net::Ipv4Addr;

const NLMSG_ERROR: u16 = 2;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DESTROYTABLE: u16 = 26;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFT_TABLE_F_PERSIST: u32 = 4;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_ACCEPT: u32 = 1;
/// Before connection tracking looks at a packet, which it does at -200.
const NF_IP_PRI_RAW: i32 = -300;

const NFT_META_OIF: u32 = 5;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_PAYLOAD_CSUM_INET: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG_1: u32 = 1;

/// Where the addresses are in an IPv4 header, and the ports in one of UDP or TCP.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
/// The interface `lo` has this number in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;

const HEADER: usize = 16;

/// Requests that the kernel fulfils all or none of.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    messages: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), messages: 0 };
        batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, NFPROTO_UNSPEC, &[]);
        batch
    }

    /// A table of IPv4 that belongs to the socket by which this is sent. One that `lasts` is nobody's after that socket was
    /// closed, and takes the place of one that is nobody's; any other goes with the socket.
    pub(super) fn table_of_ours(&mut self, name: &str, lasts: bool) {
        if lasts {
            self.table(NFT_MSG_DESTROYTABLE, name, 0);
        }
        let persist = if lasts { NFT_TABLE_F_PERSIST } else { 0 };
        self.table(NFT_MSG_NEWTABLE, name, NFT_TABLE_F_OWNER | persist);
    }

    /// There is such a table no more.
    pub(super) fn no_table(&mut self, name: &str) {
        self.table(NFT_MSG_DELTABLE, name, 0);
    }

    fn table(&mut self, kind: u16, name: &str, flags: u32) {
        let mut table = Attributes::default();
        table.text(1, name).number(2, flags);
        self.request(kind, &table);
    }

    /// A chain that sees what the namespace sends, before tracking does.
    pub(super) fn output_chain(&mut self, table: &str, name: &str) {
        let mut hook = Attributes::default();
        hook.number(1, NF_INET_LOCAL_OUT).bytes(2, &NF_IP_PRI_RAW.to_be_bytes());
        let mut chain = Attributes::default();
        chain.text(1, table).text(3, name).nested(4, &hook).number(5, NF_ACCEPT).text(7, "filter");
        self.request(NFT_MSG_NEWCHAIN, &chain);
    }

    /// A rule, after those that there are.
    pub(super) fn rule(&mut self, table: &str, chain: &str, expressions: &Expressions) {
        let mut rule = Attributes::default();
        rule.text(1, table).text(2, chain).nested(4, &expressions.list);
        self.request(NFT_MSG_NEWRULE, &rule);
    }

    /// The bytes to send, and how many requests the kernel will answer.
    pub(super) fn finish(mut self) -> (Vec<u8>, usize) {
        let requests = self.messages - 1;
        self.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, NFPROTO_UNSPEC, &[]);
        (self.bytes, requests)
    }

    fn request(&mut self, kind: u16, attributes: &Attributes) {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        self.message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, NFPROTO_IPV4, &attributes.0);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, attributes: &[u8]) {
        let length = u32::try_from(HEADER + 4 + attributes.len()).unwrap_or(u32::MAX);
        let sequence = u32::try_from(self.messages).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(NFNL_SUBSYS_NFTABLES.to_be_bytes());
        self.bytes.extend(attributes);
        self.messages += 1;
    }
}

/// The codes of the answers in what the kernel sent: 0 for each request that it fulfilled, else a negative number.
pub(super) fn errors(mut bytes: &[u8]) -> Vec<i32> {
    let mut codes = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind_a, kind_b, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if let (NLMSG_ERROR, Some(code)) = (u16::from_ne_bytes([kind_a, kind_b]), rest.first_chunk()) {
            codes.push(i32::from_ne_bytes(*code));
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
    }
    codes
}

/// What a rule does with a packet, step by step.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    list: Attributes,
}

impl Expressions {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Ends the chain for what leaves by another interface than `lo`.
    pub(super) fn out_of_loopback_only(self) -> Self {
        let mut verdict = Attributes::default();
        verdict.number(1, NF_ACCEPT);
        let mut data = Attributes::default();
        data.nested(2, &verdict);
        let mut accept = Attributes::default();
        accept.number(1, NFT_REG_VERDICT).nested(2, &data);
        self.meta(NFT_META_OIF)
            .compare(NFT_CMP_NEQ, &LOOPBACK_IFINDEX.to_ne_bytes())
            .step("immediate", &accept)
    }

    /// Goes on with packets of this protocol.
    pub(super) fn protocol(self, protocol: u8) -> Self {
        self.meta(NFT_META_L4PROTO).compare(NFT_CMP_EQ, &[protocol])
    }

    /// Goes on with packets to this address.
    pub(super) fn destination(self, address: Ipv4Addr) -> Self {
        self.load(NFT_PAYLOAD_NETWORK_HEADER, DESTINATION, 4).compare(NFT_CMP_EQ, &address.octets())
    }

    /// Goes on with packets from this address.
    pub(super) fn source(self, address: Ipv4Addr) -> Self {
        self.load(NFT_PAYLOAD_NETWORK_HEADER, SOURCE, 4).compare(NFT_CMP_EQ, &address.octets())
    }

    /// Goes on with packets to this port.
    pub(super) fn destination_port(self, port: u16) -> Self {
        self.load(NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT, 2).compare(NFT_CMP_EQ, &port.to_be_bytes())
    }

    /// Goes on with packets from this port.
    pub(super) fn source_port(self, port: u16) -> Self {
        self.load(NFT_PAYLOAD_TRANSPORT_HEADER, SOURCE_PORT, 2).compare(NFT_CMP_EQ, &port.to_be_bytes())
    }

    /// Keeps connection tracking from the packet.
    pub(super) fn untracked(self) -> Self {
        self.step("notrack", &Attributes::default())
    }

    /// Writes another destination port, and mends the checksum at this offset.
    pub(super) fn write_destination_port(self, port: u16, checksum: u32) -> Self {
        self.store(DESTINATION_PORT, port, checksum)
    }

    /// Writes another source port, and mends the checksum at this offset.
    pub(super) fn write_source_port(self, port: u16, checksum: u32) -> Self {
        self.store(SOURCE_PORT, port, checksum)
    }

    fn meta(self, key: u32) -> Self {
        let mut meta = Attributes::default();
        meta.number(1, NFT_REG_1).number(2, key);
        self.step("meta", &meta)
    }

    fn load(self, base: u32, offset: u32, length: u32) -> Self {
        let mut payload = Attributes::default();
        payload.number(1, NFT_REG_1).number(2, base).number(3, offset).number(4, length);
        self.step("payload", &payload)
    }

    fn store(self, offset: u32, port: u16, checksum: u32) -> Self {
        let mut value = Attributes::default();
        value.bytes(1, &port.to_be_bytes());
        let mut immediate = Attributes::default();
        immediate.number(1, NFT_REG_1).nested(2, &value);
        let mut payload = Attributes::default();
        payload.number(2, NFT_PAYLOAD_TRANSPORT_HEADER).number(3, offset).number(4, 2);
        payload.number(5, NFT_REG_1).number(6, NFT_PAYLOAD_CSUM_INET).number(7, checksum);
        self.step("immediate", &immediate).step("payload", &payload)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let mut data = Attributes::default();
        data.bytes(1, value);
        let mut compare = Attributes::default();
        compare.number(1, NFT_REG_1).number(2, operation).nested(3, &data);
        self.step("cmp", &compare)
    }

    fn step(mut self, name: &str, data: &Attributes) -> Self {
        let mut expression = Attributes::default();
        expression.text(1, name);
        if !data.0.is_empty() {
            expression.nested(2, data);
        }
        self.list.nested(1, &expression);
        self
    }
}

/// Attributes, one after the other, each with its length and its kind.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    fn nested(&mut self, kind: u16, value: &Self) -> &mut Self {
        self.bytes(kind | NLA_F_NESTED, &value.0)
    }
}
