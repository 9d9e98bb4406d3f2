//! The rules: the same for every network and endpoint, written once per engine. What differs stands in sets.

use mica_core::network::{Mark, OwnerId, Scope};

use super::expression::{Connection, Field, Rule, Verdict};
use super::nfta;
use super::set::{Family, Layer, Set, comment};
use crate::firewall::group;
use crate::firewall::nfnetlink::{Attributes, Message};

/// The chain of the host's owner. It is made empty, never changed, and asked first about every packet that is forwarded to or
/// from a network; `ct original proto-dst` is the published port there.
pub(super) const USER: &str = "user";

const PUBLISHED: &str = "published";
const BETWEEN: &str = "between";
const TRANSIT: &str = "transit";
const SETTLED: &str = "settled";

/// The chain for what comes from a network that is not internal.
pub(super) const FROM: &str = "from_ours";

/// The one for what goes to such a network and comes from none.
pub(super) const TO: &str = "to_ours";

/// The one for what comes from an internal network or goes to one.
pub(super) const INNER: &str = "inner";

/// What the names of the bridges of every engine begin with, which none of them closes to another.
const ANY_ENGINE: &[u8] = b"mica";

/// The number of the sum in a rule's user data, beyond those that nft has a meaning for.
const SUM: u8 = 0x6d;

/// Where a chain is called from.
struct Hook {
    kind: &'static str,
    number: i32,
    priority: i32,
}

/// A chain, with its rules in their order.
pub(super) struct Chain {
    pub(super) layer: Layer,
    pub(super) name: &'static str,
    hook: Option<Hook>,
    rules: Vec<Rule>,
}

/// The name of the engine's tables.
pub(super) fn table(owner: OwnerId) -> String {
    format!("mica_{owner}")
}

/// Every chain but the user's, those that are jumped to first.
pub(super) fn chains(owner: OwnerId) -> Vec<Chain> {
    let inet = |name, kind, number, priority, rules| {
        let hook = Some(Hook { kind, number, priority });
        Chain { layer: Layer::Inet, name, hook, rules }
    };
    let called = |name, rules| Chain { layer: Layer::Inet, name, hook: None, rules };
    vec![
        called(PUBLISHED, published()),
        called(BETWEEN, between()),
        called(SETTLED, settled()),
        called(FROM, from_ours()),
        called(TO, to_ours()),
        called(INNER, inner()),
        called(TRANSIT, transit()),
        inet("loopback", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW, loopback()),
        inet("shield", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_MANGLE, shield()),
        inet("arriving", "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST, to_published()),
        inet("local", "nat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST, to_published()),
        inet("forwarded", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER, forwarded(owner)),
        inet("leaving", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC, leaving()),
        Chain {
            layer: Layer::Bridge,
            name: "senders",
            hook: Some(Hook {
                kind: "filter",
                number: libc::NF_BR_PRE_ROUTING,
                priority: libc::NF_BR_PRI_NAT_DST_BRIDGED,
            }),
            rules: senders(),
        },
    ]
}

/// What is meant for the host's loopback comes from there, or not at all: `route_localnet` lets containers in (CVE-2020-8558),
/// and a translated destination lets neighbours in, before the kernel looks whether the address may be (moby#41872).
fn loopback() -> Vec<Rule> {
    const TO_127: Field = Field::network(16, 1);
    vec![rule().family(Family::V4).when(TO_127, &[127]).unless(Field::In, b"lo\0").verdict(Verdict::Drop)]
}

/// An endpoint's address is reached from behind its own bridge, or by an answer.
fn shield() -> Vec<Rule> {
    let only_home = |family: Family| {
        let to = destination(family);
        rule()
            .family(family)
            .among(&[to], Set::Addresses(family))
            .not_among(&[to, Field::In], Set::Home(family))
            .verdict(Verdict::Drop)
    };
    vec![
        rule().when(Field::Direction, &[1]).verdict(Verdict::Accept),
        // What is led elsewhere does not reach the address that it bears here.
        rule().connection(Connection::Translated).verdict(Verdict::Accept),
        only_home(Family::V4),
        only_home(Family::V6),
    ]
}

fn to_published() -> Vec<Rule> {
    vec![rule().verdict(Verdict::Jump(PUBLISHED))]
}

/// Published ports. `::1` is left alone, because what listens there stands in for a path that the kernel does not have.
fn published() -> Vec<Rule> {
    let mut loopback = [0; 16];
    loopback[15] = 1;
    let mut rules =
        vec![rule().family(Family::V6).when(destination(Family::V6), &loopback).verdict(Verdict::Return)];
    let port = [Field::Protocol, Field::transport(2, 2)];
    for family in [Family::V4, Family::V6] {
        let at = [destination(family), port[0], port[1]];
        rules.push(rule().family(family).translate(&at, Set::PublishedAt(family), family));
        rules.push(
            rule()
                .family(family)
                .when(Field::Destination, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
                .translate(&port, Set::Published(family), family),
        );
    }
    rules
}

/// What is of no network of ours is none of our business, unless the host forwards it on our account alone.
///
/// The first two rules spare nearly every packet the look into sets: whatever they take would be accepted by the chains that
/// the others lead to. Internal networks are in another group and left to those; `up` sees to the groups. A bridge that is in none
/// is slower.
fn forwarded(owner: OwnerId) -> Vec<Rule> {
    let [open, internal] = [false, true].map(|internal| group(owner, internal).to_ne_bytes());
    let known = |ours: Field, other: Field| {
        let between = rule().when(ours, &open).unless(other, &internal);
        between.connection(Connection::Known).verdict(Verdict::Goto(SETTLED))
    };
    vec![
        known(Field::InGroup, Field::OutGroup),
        known(Field::OutGroup, Field::InGroup),
        rule().decide(&[Field::In], Set::From),
        rule().decide(&[Field::Out], Set::To),
        rule()
            .among(&[Field::Family], Set::Closed)
            .unless(Field::In, ANY_ENGINE)
            .unless(Field::Out, ANY_ENGINE)
            .verdict(Verdict::Goto(TRANSIT)),
    ]
}

/// Between two interfaces of others. Where br_netfilter is on, a bridge of theirs is both for what it passes from port to port.
///
/// No expression compares two fields of a packet, so the pair is looked up among pairs of the same name, of which the one that it
/// would have to be was just learned.
fn transit() -> Vec<Rule> {
    vec![
        rule().learn(&[Field::In, Field::In], Set::Same),
        rule().not_among(&[Field::In, Field::Out], Set::Same).verdict(Verdict::Drop),
    ]
}

/// Of a connection that is known. Nearly every packet of a container ends here, and each lookup before would be felt in the time
/// of a round trip.
fn settled() -> Vec<Rule> {
    vec![rule().verdict(Verdict::Jump(USER)), rule().verdict(Verdict::Accept)]
}

fn from_ours() -> Vec<Rule> {
    vec![
        rule().verdict(Verdict::Jump(USER)),
        rule().among(&[Field::Out], Set::Bridges).verdict(Verdict::Goto(BETWEEN)),
    ]
}

fn to_ours() -> Vec<Rule> {
    vec![
        rule().verdict(Verdict::Jump(USER)),
        rule().connection(Connection::Known).verdict(Verdict::Accept),
        rule().connection(Connection::Translated).verdict(Verdict::Accept),
        rule().verdict(Verdict::Drop),
    ]
}

/// No connection is asked for here: one that is known may be of a network that had these addresses before.
fn inner() -> Vec<Rule> {
    vec![rule().verdict(Verdict::Jump(USER)), together(), rule().verdict(Verdict::Drop)]
}

/// From a network that is not internal to any, or within it.
fn between() -> Vec<Rule> {
    vec![
        together(),
        rule().among(&[Field::Out], Set::Internal).verdict(Verdict::Drop),
        rule().connection(Connection::Known).verdict(Verdict::Accept),
        rule().connection(Connection::Translated).verdict(Verdict::Accept),
        rule().verdict(Verdict::Drop),
    ]
}

/// Frames from port to port are forwarded, too, where br_netfilter is on.
fn together() -> Rule {
    rule().among(&[Field::In, Field::Out], Set::Together).verdict(Verdict::Accept)
}

/// By which interface a packet came is unknown here after a bridge's own hooks. So where it is known and the one by which it leaves
/// as well, it was routed and not bridged.
fn leaving() -> Vec<Rule> {
    const FROM_127: Field = Field::network(12, 1);
    let mut rules = vec![
        // An answer to 127.0.0.1 would never leave the container.
        rule().family(Family::V4).when(FROM_127, &[127]).among(&[Field::Out], Set::Bridges).masquerade(),
    ];
    for family in [Family::V4, Family::V6] {
        let from = source(family);
        // An answer to a neighbour, or to itself, would not pass the host, which has to translate it back.
        rules.push(
            rule()
                .family(family)
                .connection(Connection::Translated)
                .among(&[from, Field::Out], Set::Home(family))
                .masquerade(),
        );
        rules.push(
            rule()
                .family(family)
                .among(&[from], Set::Masqueraded(family))
                .not_among(&[Field::Out], Set::Bridges)
                .masquerade(),
        );
    }
    rules.push(
        rule()
            .among(&[Field::Family], Set::Closed)
            .among(&[Field::In, Field::Out], Set::Same)
            .verdict(Verdict::Drop),
    );
    rules
}

/// What an endpoint sends bears its own addresses, in every place where one stands, and advertises no router. Other protocols
/// than IP do not pass: what they say of addresses is not known here.
fn senders() -> Vec<Rule> {
    const IP_ANY: [u8; 4] = [0; 4];
    const ICMPV6: [u8; 1] = [58];
    const ICMPV6_TYPE: Field = Field::transport(0, 1);
    let ethertype = |kind: i32| rule().when(Field::EtherType, &(kind as u16).to_be_bytes());
    let (arp_hardware, arp_source) = (Field::network(8, 6), Field::network(14, 4));
    let advertised = Field::transport(8, 16);
    let icmpv6 =
        |kind: u8| ethertype(libc::ETH_P_IPV6).when(Field::Protocol, &ICMPV6).when(ICMPV6_TYPE, &[kind]);
    let [router_advertisement, neighbour_advertisement, redirect] = [134, 136, 137];
    vec![
        // What is most of the traffic, with one lookup.
        ethertype(libc::ETH_P_IP)
            .among(&[Field::In, Field::link(6, 6), source(Family::V4)], Set::Sources(Family::V4))
            .verdict(Verdict::Accept),
        rule().not_among(&[Field::In], Set::Ports).verdict(Verdict::Accept),
        rule().not_among(&[Field::In, Field::link(6, 6)], Set::Hardware).verdict(Verdict::Drop),
        ethertype(libc::ETH_P_ARP)
            .not_among(&[Field::In, arp_hardware], Set::Hardware)
            .verdict(Verdict::Drop),
        // A probe whether somebody has an address names none as its sender's (RFC 5227).
        ethertype(libc::ETH_P_ARP).when(arp_source, &IP_ANY).verdict(Verdict::Accept),
        ethertype(libc::ETH_P_ARP)
            .not_among(&[Field::In, arp_hardware, arp_source], Set::Sources(Family::V4))
            .verdict(Verdict::Drop),
        ethertype(libc::ETH_P_ARP).verdict(Verdict::Accept),
        ethertype(libc::ETH_P_IP).verdict(Verdict::Drop),
        icmpv6(router_advertisement).verdict(Verdict::Drop),
        icmpv6(redirect).verdict(Verdict::Drop),
        icmpv6(neighbour_advertisement)
            .not_among(&[Field::In, advertised], Set::Sources(Family::V6))
            .verdict(Verdict::Drop),
        // Whoever looks whether its address is taken has none yet (RFC 4862).
        ethertype(libc::ETH_P_IPV6).when(source(Family::V6), &[0; 16]).verdict(Verdict::Accept),
        ethertype(libc::ETH_P_IPV6)
            .not_among(&[Field::In, source(Family::V6)], Set::Sources(Family::V6))
            .verdict(Verdict::Drop),
        ethertype(libc::ETH_P_IPV6).verdict(Verdict::Accept),
        rule().verdict(Verdict::Drop),
    ]
}

fn rule() -> Rule {
    Rule::new()
}

const fn source(family: Family) -> Field {
    match family {
        Family::V4 => Field::network(12, 4),
        Family::V6 => Field::network(8, 16),
    }
}

const fn destination(family: Family) -> Field {
    match family {
        Family::V4 => Field::network(16, 4),
        Family::V6 => Field::network(24, 16),
    }
}

/// A request about tables, chains, rules, sets or elements of this layer.
pub(super) fn request(layer: Layer, message: i32, attributes: Attributes) -> Message {
    Message::new(libc::NFNL_SUBSYS_NFTABLES, message, layer.nfproto(), attributes)
}

/// Everything that makes the rules stand as they should, whatever is there: tables, sets and chains where they are missing, and
/// every rule anew. Elements and the user's chain stay as they are.
pub(super) fn written(owner: OwnerId) -> Vec<Message> {
    let table = table(owner);
    let mark = Mark { owner, scope: Scope::Driver };
    let create = |layer, message, attributes| request(layer, message, attributes).with(libc::NLM_F_CREATE);
    let mut messages = Vec::new();
    for layer in Layer::ALL {
        let named =
            Attributes::new().text(nfta::TABLE_NAME, &table).bytes(nfta::TABLE_USERDATA, &comment(&mark));
        messages.push(create(layer, libc::NFT_MSG_NEWTABLE, named));
    }
    for (set, id) in Set::all().zip(1..) {
        messages.push(create(set.layer(), libc::NFT_MSG_NEWSET, set.declared(&table, id)));
    }
    let user = Chain { layer: Layer::Inet, name: USER, hook: None, rules: Vec::new() };
    let chains = chains(owner);
    for chain in chains.iter().chain([&user]) {
        messages.push(create(chain.layer, libc::NFT_MSG_NEWCHAIN, chain.declared(&table)));
    }
    for chain in &chains {
        let all = Attributes::new().text(nfta::RULE_TABLE, &table).text(nfta::RULE_CHAIN, chain.name);
        messages.push(request(chain.layer, libc::NFT_MSG_DELRULE, all));
        for (rule, sum) in chain.rules.iter().zip(chain.sums()) {
            let rule = Attributes::new()
                .text(nfta::RULE_TABLE, &table)
                .text(nfta::RULE_CHAIN, chain.name)
                .nest(nfta::RULE_EXPRESSIONS, rule.expressions())
                .bytes(nfta::RULE_USERDATA, &userdata(&mark, sum));
            messages.push(create(chain.layer, libc::NFT_MSG_NEWRULE, rule).with(libc::NLM_F_APPEND));
        }
    }
    messages
}

impl Chain {
    fn declared(&self, table: &str) -> Attributes {
        let chain = Attributes::new().text(nfta::CHAIN_TABLE, table).text(nfta::CHAIN_NAME, self.name);
        let Some(hook) = &self.hook else { return chain };
        let place = Attributes::new()
            .number(nfta::HOOK_HOOKNUM, hook.number as u32)
            .number(nfta::HOOK_PRIORITY, hook.priority as u32);
        chain
            .nest(nfta::CHAIN_HOOK, &place)
            .number(nfta::CHAIN_POLICY, libc::NF_ACCEPT as u32)
            .text(nfta::CHAIN_TYPE, hook.kind)
    }

    /// What tells each rule from any other, in their order.
    pub(super) fn sums(&self) -> impl Iterator<Item = u32> {
        self.rules.iter().map(|rule| sum(rule.expressions().as_bytes()))
    }
}

/// FNV-1a, which tells one version of a rule from another. Nobody has to be kept from finding two that agree: who may write
/// rules may also write none.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn userdata(mark: &Mark, sum: u32) -> Vec<u8> {
    let mut bytes = comment(mark);
    bytes.extend([SUM, 4]);
    bytes.extend(sum.to_be_bytes());
    bytes
}

/// The sum in a rule's user data, where it has one.
pub(super) fn sum_in(userdata: &[u8]) -> Option<u32> {
    let (&[_, length], rest) = userdata.split_first_chunk()?;
    match rest.get(usize::from(length)..)? {
        [SUM, 4, sum @ ..] => Some(u32::from_be_bytes(sum.try_into().ok()?)),
        _ => None,
    }
}
