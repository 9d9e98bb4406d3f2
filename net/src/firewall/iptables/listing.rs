//! What stands in the tables, read from the output of `iptables-save`, and the commands that make it what ought to stand.

use mica_core::Error;
use mica_core::network::{Mark, OwnerId};

use super::rules::{Chain, Lead, Rule, Table, Target, USER, lead_of};
use super::tool::Batch;

/// A rule of this engine that stands.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) table: Table,
    pub(super) chain: String,
    pub(super) mark: Mark,
    pub(super) key: String,
    /// All of it after the chain's name, as it was printed.
    text: String,
}

/// Tables, as they were when they were looked at.
#[derive(Debug, Default)]
pub(super) struct Listing {
    standing: Vec<Standing>,
    /// Every chain that is not built in.
    chains: Vec<(Table, String)>,
    /// This engine's own chains.
    own: Vec<(Table, Chain)>,
    /// Every rule of the table `filter`: its chain, and all of it after that.
    filter: Vec<(String, String)>,
    /// `FORWARD` drops what no rule accepts.
    drops: bool,
}

impl Listing {
    /// Reads what `-save` prints.
    pub(super) fn read(owner: OwnerId, text: &str) -> Self {
        let mut listing = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name);
            }
            let Some(table) = table else { continue };
            if let Some((chain, policy)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
                listing.read_chain(table, owner, chain, policy);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                listing.read_rule(table, owner, rule);
            }
        }
        listing
    }

    /// One that is not built in has `-` for a policy. Counters come after it.
    fn read_chain(&mut self, table: Table, owner: OwnerId, chain: &str, policy: &str) {
        if policy.starts_with('-') {
            let own = |(t, known): &(Table, Chain)| *t == table && known.name(owner) == chain;
            self.own.extend(Chain::OWN.into_iter().filter(own));
            self.chains.push((table, chain.to_owned()));
        } else if table == Table::Filter && chain == "FORWARD" {
            self.drops |= policy.starts_with("DROP");
        }
    }

    fn read_rule(&mut self, table: Table, owner: OwnerId, rule: &str) {
        let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
        if table == Table::Filter {
            self.filter.push((chain.to_owned(), text.to_owned()));
        }
        if let Some((mark, key)) = comment(text).filter(|(mark, _)| mark.owner == owner) {
            let (chain, key, text) = (chain.to_owned(), key.to_owned(), text.to_owned());
            self.standing.push(Standing { table, chain, mark, key, text });
        }
    }

    /// The rules of this engine.
    pub(super) fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.standing.iter()
    }

    /// The chains of this engine.
    pub(super) fn chains(&self) -> impl Iterator<Item = (Table, Chain)> {
        self.own.iter().copied()
    }

    fn has_chain(&self, table: Table, name: &str) -> bool {
        self.chains.iter().any(|(t, chain)| *t == table && chain == name)
    }

    /// Whether this rule stands.
    pub(super) fn has(&self, rule: &Rule) -> bool {
        self.standing.iter().any(|standing| is(standing, rule))
    }

    /// Adds the rules of `wanted` that do not stand, and takes away those that stand beyond them with a mark that is `stale`.
    pub(super) fn difference(&self, owner: OwnerId, wanted: &[Rule], stale: impl Fn(&Mark) -> bool) -> Batch {
        let mut batch = Batch::default();
        let mut made = Vec::new();
        for rule in wanted {
            let jump = if let Target::Jump(chain) = rule.target { Some(chain) } else { None };
            for chain in jump.into_iter().chain([rule.chain]) {
                let name = chain.name(owner);
                let there = matches!(chain, Chain::Builtin(_)) || self.has_chain(rule.table, &name);
                if !there && !made.contains(&(rule.table, name.clone())) {
                    batch.push(rule.table, format!("-N {name}"));
                    made.push((rule.table, name));
                }
            }
        }
        for standing in self.standing.iter().filter(|standing| stale(&standing.mark)) {
            if !wanted.iter().any(|rule| is(standing, rule)) {
                batch.push(standing.table, format!("-D {} {}", standing.chain, standing.text));
            }
        }
        for rule in wanted.iter().filter(|rule| !self.has(rule)) {
            batch.push(rule.table, rule.line());
        }
        batch
    }

    /// Takes away everything of this engine, and [`USER`] where nobody uses it.
    pub(super) fn clearance(&self, owner: OwnerId) -> Batch {
        let mut batch = Batch::default();
        for standing in &self.standing {
            batch.push(standing.table, format!("-D {} {}", standing.chain, standing.text));
        }
        for &(table, chain) in &self.own {
            let name = chain.name(owner);
            batch.push(table, format!("-F {name}"));
            batch.push(table, format!("-X {name}"));
        }
        let ours = |text: &str| comment(text).is_some_and(|(mark, _)| mark.owner == owner);
        let used = |(chain, text): &(String, String)| chain == USER || target(text) == USER && !ours(text);
        if self.has_chain(Table::Filter, USER) && !self.filter.iter().any(used) {
            batch.push(Table::Filter, format!("-X {USER}"));
        }
        batch
    }

    /// Why one of these cannot be published: another endpoint has the port.
    pub(super) fn taken(&self, mark: &Mark, wanted: &[&Lead]) -> Option<Error> {
        let others = self.standing.iter().filter(|standing| standing.mark != *mark);
        others.into_iter().find_map(|standing| {
            let taken = lead_of(&standing.key)?;
            let lead = wanted.iter().find(|lead| overlap(&taken, lead))?;
            Some(Error::InUse { what: format!("port {lead}"), by: format!("'{}'", standing.mark) })
        })
    }

    /// The published ports that stand with this mark.
    pub(super) fn leads(&self, mark: &Mark) -> Vec<Lead> {
        let own = self.standing.iter().filter(|standing| standing.mark == *mark);
        own.filter_map(|standing| lead_of(&standing.key)).collect()
    }

    /// The chain that keeps this bridge from forwarding: one of another's, before the chain that lets it pass, that drops or
    /// rejects everything.
    pub(super) fn shut(&self, owner: OwnerId, bridge: &str) -> Option<String> {
        match self.fate("FORWARD", &Chain::Pass.name(owner), bridge, 0) {
            Fate::Dropped(chain) => Some(chain),
            Fate::Goes => self.drops.then(|| "FORWARD".to_owned()),
            Fate::Accepted => None,
        }
    }

    /// What becomes in a chain of a packet that none of its conditional rules matches, but for those that name the bridge.
    fn fate(&self, chain: &str, pass: &str, bridge: &str, depth: usize) -> Fate {
        // The kernel lets chains nest no deeper than this, and a loop not at all.
        const NESTED: usize = 16;
        for (_, text) in self.filter.iter().filter(|(other, _)| other == chain) {
            let target = target(text);
            let always = without_comment(text).starts_with("-j ");
            let named = text.split(' ').any(|word| word == bridge);
            match target {
                _ if target == pass => return Fate::Accepted,
                "ACCEPT" if always || named => return Fate::Accepted,
                "RETURN" if always => return Fate::Goes,
                "DROP" | "REJECT" if always => return Fate::Dropped(chain.to_owned()),
                _ if always && depth < NESTED => match self.fate(target, pass, bridge, depth + 1) {
                    Fate::Goes => {}
                    fate => return fate,
                },
                _ => {}
            }
        }
        Fate::Goes
    }
}

enum Fate {
    Accepted,
    Dropped(String),
    Goes,
}

fn is(standing: &Standing, rule: &Rule) -> bool {
    standing.table == rule.table
        && standing.mark == rule.mark
        && standing.key == rule.key
        && standing.chain == rule.chain.name(rule.mark.owner)
}

/// The mark and the key in a rule's comment; `None` where it has no comment of ours.
fn comment(text: &str) -> Option<(Mark, &str)> {
    let (_, rest) = text.split_once("--comment \"")?;
    let (comment, _) = rest.split_once('"')?;
    let (mark, key) = comment.split_once(' ')?;
    Some((mark.parse().ok()?, key))
}

/// A rule without its comment, if it begins with one.
fn without_comment(text: &str) -> &str {
    let rest = text.strip_prefix("-m comment --comment ").unwrap_or(text);
    match rest.strip_prefix('"').and_then(|rest| rest.split_once("\" ")) {
        Some((_, rest)) => rest,
        None if rest.len() < text.len() => rest.split_once(' ').map_or("", |(_, rest)| rest),
        None => text,
    }
}

/// Where a rule goes on: the word after `-j`.
fn target(text: &str) -> &str {
    let target = text.rsplit_once("-j ").map_or("", |(_, target)| target);
    target.split(' ').next().unwrap_or_default()
}

/// Whether some packet could be meant for both.
fn overlap(one: &Lead, other: &Lead) -> bool {
    let meet = one.at.is_none() || other.at.is_none() || one.at == other.at;
    one.to.is_ipv4() == other.to.is_ipv4()
        && one.protocol == other.protocol
        && meet
        && one.host.first() <= other.host.last()
        && other.host.first() <= one.host.last()
}
