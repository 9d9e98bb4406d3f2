//! Rules of the host's owner that cut a network off.
//!
//! An accept in a table of ours ends nothing: a packet passes when every table lets it. So whoever drops what is forwarded unless
//! it is allowed, as Docker and ufw do, cuts a network off that they know nothing of.

use std::io;

use mica_core::network::Mark;

use super::expression::{Field, Rule, Verdict};
use super::legacy;
use super::nfta;
use super::set::{Family, Measures, comment, marked};
use crate::firewall::nfnetlink::{Attributes, Message, Netfilter, Parsed, attributes, find, number, text};

/// The chain in which Docker's users are to accept what Docker would drop.
const PROVIDED: &str = "DOCKER-USER";
/// The chain in which `ufw route allow` does.
const UFW: &str = "ufw-user-forward";

/// The number of the name in the arguments of `target` and `match`, which are extensions of iptables.
const XT_NAME: u16 = 1;

/// A chain that drops what is forwarded to or from a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    family: u8,
    table: String,
    chain: String,
    /// A place in it that is meant for others' accepts.
    provided: bool,
    ufw: bool,
    /// It is one of `iptables-legacy`.
    legacy: bool,
}

/// The chains that drop what is forwarded to or from this bridge, in the given families (`NFPROTO_*`).
pub(super) fn cuts(nl: &mut Netfilter, own: &str, families: &[u8], bridge: &str) -> io::Result<Vec<Cut>> {
    let mut cuts = Vec::new();
    for chain in nl.dump(&about(0, libc::NFT_MSG_GETCHAIN, Attributes::new()))? {
        let (family, chain) = (chain.family, &chain.attributes);
        let (Some(table), Some(name)) = (text(chain, nfta::CHAIN_TABLE), text(chain, nfta::CHAIN_NAME))
        else {
            continue;
        };
        let hook = find(chain, nfta::CHAIN_HOOK).and_then(|hook| number(hook, nfta::HOOK_HOOKNUM));
        let both = i32::from(family) == libc::NFPROTO_INET;
        if hook != Some(libc::NF_INET_FORWARD as u32) || table == own || !(both || families.contains(&family))
        {
            continue;
        }
        let mut reached = vec![Chain::read(nl, family, table, name)?];
        let at_last = reached[0].rules.last().is_some_and(Seen::drops_all);
        if number(chain, nfta::CHAIN_POLICY) != Some(libc::NF_DROP as u32) && !at_last {
            continue;
        }
        follow(nl, family, table, &mut reached)?;
        if opened(&reached, bridge) {
            continue;
        }
        let has = |wanted| reached.iter().any(|chain| chain.name == wanted);
        let (provided, ufw) = (has(PROVIDED), has(UFW));
        cuts.push(Cut {
            family,
            table: table.to_owned(),
            chain: name.to_owned(),
            provided,
            ufw,
            legacy: false,
        });
    }
    for family in [Family::V4, Family::V6].into_iter().filter(|family| families.contains(&family.nfproto())) {
        let reached = legacy::forwarding(family)?;
        let drops = reached.first().and_then(|chain| chain.rules.last()).is_some_and(Seen::drops_all);
        if drops && !opened(&reached, bridge) {
            let (table, chain) = ("filter".to_owned(), "FORWARD".to_owned());
            let family = family.nfproto();
            cuts.push(Cut { family, table, chain, provided: false, ufw: false, legacy: true });
        }
    }
    Ok(cuts)
}

impl Cut {
    /// The rules that open it for the bridge, where there is a place for them.
    pub(super) fn opening(&self, mark: &Mark, bridge: &[u8]) -> Vec<Message> {
        let accept = |field| {
            let rule = Rule::new().when(field, bridge).verdict(Verdict::Accept);
            let rule = Attributes::new()
                .text(nfta::RULE_TABLE, &self.table)
                .text(nfta::RULE_CHAIN, PROVIDED)
                .nest(nfta::RULE_EXPRESSIONS, rule.expressions())
                .bytes(nfta::RULE_USERDATA, &comment(mark));
            about(self.family, libc::NFT_MSG_NEWRULE, rule).with(libc::NLM_F_CREATE)
        };
        if self.provided { vec![accept(Field::In), accept(Field::Out)] } else { Vec::new() }
    }

    /// What it does, and what would open it.
    pub(super) fn text(&self, bridge: &str) -> String {
        let Self { table, chain, .. } = self;
        let (family, tool) = match i32::from(self.family) {
            libc::NFPROTO_IPV4 => ("ip", "iptables"),
            libc::NFPROTO_IPV6 => ("ip6", "ip6tables"),
            _ => ("inet", "nft"),
        };
        let cure = if self.ufw {
            format!("ufw route allow in on {bridge}; ufw route allow out on {bridge}")
        } else if table == "filter" && chain == "FORWARD" {
            let tool = if self.legacy { format!("{tool}-legacy") } else { tool.to_owned() };
            format!("{tool} -I FORWARD -i {bridge} -j ACCEPT; {tool} -I FORWARD -o {bridge} -j ACCEPT")
        } else {
            let insert =
                |way: &str| format!("nft insert rule {family} {table} {chain} {way} {bridge} accept");
            format!("{}; {}", insert("iifname"), insert("oifname"))
        };
        format!("chain '{chain}' of table '{family} {table}' drops what is forwarded; what opens it: {cure}")
    }
}

/// The rules in others' tables that bear a mark, with what deletes each.
pub(super) fn ours(nl: &mut Netfilter) -> io::Result<Vec<(Mark, String, Message)>> {
    let mut found = Vec::new();
    for Parsed { family, attributes: chain } in
        nl.dump(&about(0, libc::NFT_MSG_GETCHAIN, Attributes::new()))?
    {
        let Some(table) =
            text(&chain, nfta::CHAIN_TABLE).filter(|_| text(&chain, nfta::CHAIN_NAME) == Some(PROVIDED))
        else {
            continue;
        };
        let inside = Attributes::new().text(nfta::RULE_TABLE, table).text(nfta::RULE_CHAIN, PROVIDED);
        for Parsed { attributes: rule, .. } in
            nl.dump(&about(family, libc::NFT_MSG_GETRULE, inside.clone()))?
        {
            let mark = find(&rule, nfta::RULE_USERDATA).and_then(marked);
            if let (Some(mark), Some(handle)) = (mark, find(&rule, nfta::RULE_HANDLE)) {
                let delete =
                    about(family, libc::NFT_MSG_DELRULE, inside.clone().bytes(nfta::RULE_HANDLE, handle));
                found.push((mark, format!("a rule of chain '{PROVIDED}' of table '{table}'"), delete));
            }
        }
    }
    Ok(found)
}

fn about(family: u8, message: i32, attributes: Attributes) -> Message {
    Message::new(libc::NFNL_SUBSYS_NFTABLES, message, family.into(), attributes)
}

/// A chain that somebody else made.
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) rules: Vec<Seen>,
}

impl Chain {
    fn read(nl: &mut Netfilter, family: u8, table: &str, name: &str) -> io::Result<Self> {
        let inside = Attributes::new().text(nfta::RULE_TABLE, table).text(nfta::RULE_CHAIN, name);
        let rules = nl.dump(&about(family, libc::NFT_MSG_GETRULE, inside))?;
        let rules = rules.iter().filter_map(|rule| Seen::read(&rule.attributes)).collect();
        Ok(Self { name: name.to_owned(), rules })
    }
}

/// A rule in it, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The names of interfaces that it asks for, each with a NUL where it is the whole name.
    pub(super) comes_in: Option<Vec<u8>>,
    pub(super) goes_out: Option<Vec<u8>>,
    /// It asks for something else.
    pub(super) narrower: bool,
    pub(super) end: Option<End>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Accept,
    Drop,
    To(String),
}

impl Seen {
    fn read(rule: &[u8]) -> Option<Self> {
        let mut seen = Self::default();
        let mut loaded = None;
        for (_, expression) in attributes(find(rule, nfta::RULE_EXPRESSIONS).unwrap_or_default()) {
            let data = find(expression, nfta::EXPR_DATA).unwrap_or_default();
            match text(expression, nfta::EXPR_NAME)? {
                "meta" => loaded = number(data, nfta::META_KEY),
                "cmp" => seen.compares(loaded.take(), data),
                "immediate" => seen.end = end(data),
                "reject" => seen.end = Some(End::Drop),
                "target" if text(data, XT_NAME) == Some("REJECT") => seen.end = Some(End::Drop),
                "counter" => {}
                "match" if text(data, XT_NAME) == Some("comment") => {}
                _ => seen.narrower = true,
            }
        }
        Some(seen)
    }

    fn compares(&mut self, loaded: Option<u32>, data: &[u8]) {
        let name =
            || find(data, nfta::CMP_DATA).and_then(|data| find(data, nfta::DATA_VALUE)).map(<[u8]>::to_vec);
        let equal = number(data, nfta::CMP_OP) == Some(libc::NFT_CMP_EQ as u32);
        match loaded.map(|key| key as i32) {
            Some(libc::NFT_META_IIFNAME) if equal => self.comes_in = name(),
            Some(libc::NFT_META_OIFNAME) if equal => self.goes_out = name(),
            _ => self.narrower = true,
        }
    }

    pub(super) fn leads_to(&self) -> Option<&str> {
        match &self.end {
            Some(End::To(chain)) => Some(chain),
            _ => None,
        }
    }

    pub(super) fn asks_nothing(&self) -> bool {
        !self.narrower && self.comes_in.is_none() && self.goes_out.is_none()
    }

    fn drops_all(&self) -> bool {
        self.end == Some(End::Drop) && self.asks_nothing()
    }
}

fn end(immediate: &[u8]) -> Option<End> {
    let verdict = find(find(immediate, nfta::IMMEDIATE_DATA)?, nfta::DATA_VERDICT)?;
    match number(verdict, nfta::VERDICT_CODE)? as i32 {
        libc::NF_ACCEPT => Some(End::Accept),
        libc::NF_DROP => Some(End::Drop),
        libc::NFT_JUMP | libc::NFT_GOTO => Some(End::To(text(verdict, nfta::VERDICT_CHAIN)?.to_owned())),
        _ => None,
    }
}

/// Adds the chains that the rules of these lead to.
fn follow(nl: &mut Netfilter, family: u8, table: &str, reached: &mut Vec<Chain>) -> io::Result<()> {
    let mut at = 0;
    while let Some(chain) = reached.get(at) {
        let next: Vec<_> = chain.rules.iter().filter_map(Seen::leads_to).map(str::to_owned).collect();
        for name in next {
            if reached.iter().all(|chain| chain.name != name) {
                reached.push(Chain::read(nl, family, table, &name)?);
            }
        }
        at += 1;
    }
    Ok(())
}

/// Whether rules in these chains accept all that comes from the bridge, and all that goes to it.
fn opened(reached: &[Chain], bridge: &str) -> bool {
    let accepts = |rule: &&Seen| rule.end == Some(End::Accept) && !rule.narrower;
    let accepting = || reached.iter().flat_map(|chain| &chain.rules).filter(accepts);
    let comes = |rule: &Seen| rule.goes_out.is_none() && meets(rule.comes_in.as_deref(), bridge);
    let goes = |rule: &Seen| rule.comes_in.is_none() && meets(rule.goes_out.as_deref(), bridge);
    accepting().any(comes) && accepting().any(goes)
}

/// Whether an interface of this name is meant: by its whole name, by how it begins (`br+`), or by nothing.
fn meets(wanted: Option<&[u8]>, name: &str) -> bool {
    let Some(wanted) = wanted else { return true };
    match wanted.iter().position(|byte| *byte == 0) {
        Some(end) => &wanted[..end] == name.as_bytes(),
        None => name.as_bytes().starts_with(wanted),
    }
}
