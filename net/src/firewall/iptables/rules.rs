//! The rules that ought to stand. Nothing here looks at the host.
//!
//! Every part of a rule's text is a number, an address, an id, or the name of a bridge that [`safe`] let pass: no text that a
//! user chose.

use std::fmt;
use std::net::IpAddr;

use mica_core::network::{Family, InterfaceName, Mark, OwnerId};
use mica_core::{Error, Result};

use crate::firewall::Ground;
pub(super) use crate::firewall::Lead;

/// The chain of the host's owner in the table `filter`, before all other rules there. It is made where it is missing, and never
/// written to. It may forbid more, and open what another firewall forbids; it cannot open what [`Chain::Drop`] drops.
///
/// Its rules see packets after their destination was translated; `-m conntrack --ctorigdstport` matches the port of the host.
pub(super) const USER: &str = "MICA-USER";

/// A table, in the order in which they are written: what is dropped stands before anything is led inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Raw,
    Mangle,
    Filter,
    Nat,
}

impl Table {
    pub(super) const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Filter, Self::Nat];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A chain that rules of ours are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// The kernel's own.
    Builtin(&'static str),
    /// [`USER`].
    User,
    /// In `raw`: what comes from the wrong side.
    Raw,
    /// In `mangle`, which is asked before `filter`: what may not pass, whoever accepts it there.
    Drop,
    /// In `filter`, after all others' rules: what may pass.
    Pass,
    /// In `nat`: where published ports lead.
    Port,
    /// In `nat`: who is seen as the host.
    Masq,
}

impl Chain {
    /// Those that are this engine's alone, with their tables.
    pub(super) const OWN: [(Table, Self); 5] = [
        (Table::Raw, Self::Raw),
        (Table::Mangle, Self::Drop),
        (Table::Filter, Self::Pass),
        (Table::Nat, Self::Port),
        (Table::Nat, Self::Masq),
    ];

    /// Its name, of at most 28 bytes, which is what the kernel takes.
    pub(super) fn name(self, owner: OwnerId) -> String {
        let part = match self {
            Self::Builtin(name) => return name.to_owned(),
            Self::User => return USER.to_owned(),
            Self::Raw => "raw",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Port => "port",
            Self::Masq => "masq",
        };
        format!("mica-{owner}-{part}")
    }
}

/// Where in its chain a rule is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

/// A rule that ought to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) table: Table,
    pub(super) chain: Chain,
    pub(super) place: Place,
    pub(super) mark: Mark,
    /// What it does. Two rules of one mark in one chain that have the same key are the same.
    pub(super) key: String,
    /// What it matches, as the command line has it.
    pub(super) matches: String,
    pub(super) target: Target,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Drop,
    Accept,
    Masquerade,
    Jump(Chain),
    /// `DNAT`, to an address with ports.
    Lead(String),
}

impl Rule {
    fn new(mark: Mark, table: Table, chain: Chain, key: &str, matches: String, target: Target) -> Self {
        Self { table, chain, place: Place::Last, mark, key: key.to_owned(), matches, target }
    }

    fn first(self) -> Self {
        Self { place: Place::First, ..self }
    }

    /// The line that adds it, as `iptables-restore` reads it.
    pub(super) fn line(&self) -> String {
        let owner = self.mark.owner;
        let (option, position) = match self.place {
            Place::First => ("-I", " 1"),
            Place::Last => ("-A", ""),
        };
        let target = match &self.target {
            Target::Drop => "DROP".to_owned(),
            Target::Accept => "ACCEPT".to_owned(),
            Target::Masquerade => "MASQUERADE".to_owned(),
            Target::Jump(chain) => chain.name(owner),
            Target::Lead(to) => format!("DNAT --to-destination {to}"),
        };
        let (chain, mark, key) = (self.chain.name(owner), self.mark, &self.key);
        let matches = Spaced(&self.matches);
        format!("{option} {chain}{position}{matches} -m comment --comment \"{mark} {key}\" -j {target}")
    }
}

/// Text after a blank, or nothing.
struct Spaced<'a>(&'a str);

impl fmt::Display for Spaced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

/// Refuses the name of a bridge that a rule would read as something else: `+` stands for any ending, quotes and blanks end
/// a word, and a word that begins with `-` or `!` is an option.
pub(super) fn safe(bridge: &InterfaceName) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let name = bridge.as_str();
    if name.bytes().all(plain) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Error::Options(format!(
        "interface '{}': with iptables the name of a bridge is made of letters, digits, '-', '_' and '.'",
        name.escape_debug()
    )))
}

/// What all networks share: the chains' places, and that nothing from elsewhere is taken for the host's own loopback
/// (CVE-2020-8558; moby#41872: a translation comes before the kernel's check of martians).
pub(super) fn shared(family: Family, mark: Mark) -> Vec<Rule> {
    use Chain::{Builtin, Drop, Masq, Pass, Port, Raw, User};
    let loopback = if family == Family::V4 { "127.0.0.0/8" } else { "::1/128" };
    // Nothing leads `::1` to a bridge: there is no route_localnet for IPv6, so whoever listens there must be reached.
    let own = match family {
        Family::V4 => "-m addrtype --dst-type LOCAL",
        Family::V6 => "! -d ::1/128 -m addrtype --dst-type LOCAL",
    };
    let jump = |table, from: &'static str, key, matches: &str, to| {
        Rule::new(mark, table, Builtin(from), key, matches.to_owned(), Target::Jump(to))
    };
    let drop = Target::Drop;
    vec![
        Rule::new(mark, Table::Raw, Raw, "loopback", format!("-d {loopback} ! -i lo"), drop),
        jump(Table::Raw, "PREROUTING", "raw", "", Raw).first(),
        jump(Table::Mangle, "FORWARD", "drop", "", Drop).first(),
        jump(Table::Filter, "FORWARD", "user", "", User).first(),
        jump(Table::Filter, "FORWARD", "pass", "", Pass),
        jump(Table::Nat, "PREROUTING", "port", own, Port),
        jump(Table::Nat, "OUTPUT", "port", own, Port),
        jump(Table::Nat, "POSTROUTING", "masq", "", Masq),
    ]
}

/// What is forwarded between interfaces that no engine of ours has is dropped. It is the last rule of the last chain: it
/// overrules nobody who accepts.
///
/// Where the host has br_netfilter, what others' bridges pass from port to port comes by, too, and is let through. Elsewhere nothing
/// asks for that: the kernel loads br_netfilter for whoever does.
pub(super) fn close(mark: Mark, br_netfilter: bool) -> Rule {
    const FOREIGN: &str = "! -i mica+ ! -o mica+";
    let (key, matches) = match br_netfilter {
        true => ("close routed", format!("{FOREIGN} -m physdev ! --physdev-is-bridged")),
        false => ("close", FOREIGN.to_owned()),
    };
    Rule::new(mark, Table::Filter, Chain::Pass, key, matches, Target::Drop)
}

/// What one network needs.
pub(super) fn network(family: Family, mark: Mark, ground: &Ground) -> Result<Vec<Rule>> {
    safe(&ground.bridge)?;
    let mut rules = forwarded(mark, ground);
    for subnet in ground.subnets.iter().filter(|subnet| subnet.family() == family) {
        let rule = |table, chain, key: &str, matches, target| {
            Rule::new(mark, table, chain, &format!("{key} {subnet} {}", ground.bridge), matches, target)
        };
        let bridge = &ground.bridge;
        // Whoever is seen as the host gets no answer at an own address, so nothing from elsewhere is meant for it.
        if ground.internal || ground.masquerade {
            let direct = format!("-d {subnet} ! -i {bridge} -m addrtype ! --dst-type LOCAL");
            rules.push(rule(Table::Raw, Chain::Raw, "direct", direct, Target::Drop));
        }
        if ground.internal {
            continue;
        }
        // An endpoint that reaches itself or a neighbour through a published port must get its answer from the host, too.
        // No interface is named: with bridge-nf-call-iptables the one that a packet came from is unknown here.
        let hairpin = format!("-s {subnet} -d {subnet} -m conntrack --ctstate DNAT");
        rules.push(rule(Table::Nat, Chain::Masq, "hairpin", hairpin, Target::Masquerade));
        if ground.masquerade {
            let leaving = format!("-s {subnet} ! -o {bridge}");
            rules.push(rule(Table::Nat, Chain::Masq, "leave", leaving, Target::Masquerade));
        }
    }
    if family == Family::V4 && !ground.internal {
        let local = format!("-s 127.0.0.0/8 -o {}", ground.bridge);
        let key = format!("localhost {}", ground.bridge);
        rules.push(Rule::new(mark, Table::Nat, Chain::Masq, &key, local, Target::Masquerade));
    }
    Ok(rules)
}

/// What passes in and out of a bridge: the same in both families, whatever subnets it has.
fn forwarded(mark: Mark, ground: &Ground) -> Vec<Rule> {
    const LED: &str = "--ctstate RELATED,ESTABLISHED,DNAT";
    let bridge = &ground.bridge;
    let rule = |table, chain, key: &str, matches, target| {
        Rule::new(mark, table, chain, &format!("{key} {bridge}"), matches, target)
    };
    let drop = |key, matches| rule(Table::Mangle, Chain::Drop, key, matches, Target::Drop);
    // Before the rule that closes the rest, which may be there already.
    let pass = |key, matches| rule(Table::Filter, Chain::Pass, key, matches, Target::Accept).first();
    let within = format!("-i {bridge} -o {bridge}");
    let mut rules = Vec::new();
    if ground.internal {
        rules.push(drop("enter", format!("-o {bridge} ! -i {bridge}")));
        rules.push(drop("leave", format!("-i {bridge} ! -o {bridge}")));
    } else {
        rules.push(drop("enter", format!("-o {bridge} ! -i {bridge} -m conntrack ! {LED}")));
        rules.push(pass("enter", format!("-o {bridge} -m conntrack {LED}")));
        rules.push(pass("leave", format!("-i {bridge} ! -o {bridge}")));
    }
    if ground.icc {
        rules.push(pass("within", within));
    } else {
        rules.push(drop("within", format!("{within} -m conntrack ! {LED}")));
    }
    rules
}

/// A published port.
pub(super) fn lead(mark: Mark, lead: &Lead) -> Rule {
    let (protocol, host, container) = (lead.protocol, lead.host, lead.container);
    let at = lead.at.map(|at| format!("-d {at} ")).unwrap_or_default();
    let matches = format!("{at}-p {protocol} -m {protocol} --dport {}:{}", host.first(), host.last());
    let ports = match host.count() {
        1 => container.first().to_string(),
        // With a base, a port is moved by its distance from that base (iptables-extensions, DNAT).
        _ => format!("{}-{}/{}", container.first(), container.last(), host.first()),
    };
    let target = match lead.to {
        IpAddr::V4(to) => format!("{to}:{ports}"),
        IpAddr::V6(to) => format!("[{to}]:{ports}"),
    };
    let at = lead.at.map_or_else(|| "*".to_owned(), |at| at.to_string());
    let key = format!("{protocol} {at} {host} {} {container}", lead.to);
    Rule::new(mark, Table::Nat, Chain::Port, &key, matches, Target::Lead(target))
}

/// The published port that a rule with this key leads; `None` for another rule's.
pub(super) fn lead_of(key: &str) -> Option<Lead> {
    let words: Vec<_> = key.split(' ').collect();
    let [protocol, at, host, to, container] = words[..] else { return None };
    Some(Lead {
        protocol: protocol.parse().ok()?,
        at: if at == "*" { None } else { Some(at.parse().ok()?) },
        host: host.parse().ok()?,
        to: to.parse().ok()?,
        container: container.parse().ok()?,
    })
}
