//! The back end for hosts whose owner filters with `iptables`.
//!
//! Chains of this engine hang off the built-in ones of four tables, in both families. Each rule bears a comment: the [`Mark`] of
//! what it is part of, and a key that says what it does, of which there is one for each mark. So what stands is compared with
//! what ought to stand by marks and keys, and the difference is one input of `iptables-restore` for each family that differs.
//!
//! What is forbidden stands in `raw` and `mangle`, where no rule of another firewall accepts it first. What is allowed stands
//! last in `filter`, behind the rules of the host's owner: none of theirs is overruled but a policy. The chain [`USER`] is
//! theirs, for rules about the traffic of containers, and comes first there.
//!
//! `iptables` sees no ARP, and the packets within a bridge only where a setting of the host says so. Each port of a bridge is
//! therefore guarded by a [filter of its own](sender), which needs no table.

mod listing;
mod rules;
mod sender;
mod tool;

use std::fs::File;
use std::path::{Path, PathBuf};

use mica_core::network::{Families, Family, Mark, NetworkId, Owned, OwnerId, Scope};
use mica_core::{Error, Result};

use self::listing::Standing;
use self::rules::{Chain, Lead, Rule, Table, USER};
use self::tool::Tool;
use super::nfnetlink::Connections;
use super::{Firewall, Ground, Guarded, conntrack};
use crate::setting;

/// Rules that `iptables` and `ip6tables` keep.
#[derive(Debug)]
pub(crate) struct Iptables {
    owner: OwnerId,
    /// Held while rules are compared and changed: two that find the same rule missing would both add it.
    lock: PathBuf,
    /// IPv4, and IPv6 where the host has it.
    tools: Vec<Tool>,
    /// Why there is none for IPv6.
    lacking: Option<String>,
    connections: Connections,
}

impl Iptables {
    /// The firewall of this engine, whose driver keeps its locks in `dir`. Fails with [`Error::Unavailable`] without the
    /// program, the tables, the filters of links or the privilege.
    pub(crate) fn open(owner: OwnerId, dir: &Path) -> Result<Self> {
        let mut tools = vec![Tool::open(Family::V4)?];
        sender::probe()?;
        let lacking = match Tool::open(Family::V6) {
            Ok(tool) => {
                tools.push(tool);
                None
            }
            Err(err) => Some(err.to_string()),
        };
        Ok(Self {
            owner,
            lock: dir.join("iptables.lock"),
            tools,
            lacking,
            connections: Connections::default(),
        })
    }

    fn lock(&self) -> Result<File> {
        let doing = || format!("lock '{}'", self.lock.display());
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(Error::io(doing))?;
        file.lock().map_err(Error::io(doing))?;
        Ok(file)
    }

    fn mark(&self, scope: Scope) -> Mark {
        Mark { owner: self.owner, scope }
    }

    /// What ought to stand for all networks and for this one, in the tables of one family.
    fn ground(&self, family: Family, ground: &Ground) -> Result<Vec<Rule>> {
        let mut wanted = rules::shared(family, self.mark(Scope::Driver));
        wanted.extend(rules::network(family, self.mark(Scope::Network(ground.network)), ground)?);
        Ok(wanted)
    }

    /// Takes away all that bears a mark of which this is true.
    fn remove(&self, what: &str, tables: &[Table], stale: impl Fn(&Mark) -> bool) -> Result<()> {
        let failures = self.tools.iter().filter_map(|tool| {
            let listing = tool.list(tables, self.owner);
            listing.and_then(|listing| tool.restore(&listing.difference(self.owner, &[], &stale))).err()
        });
        Error::unless_complete(what, failures.collect())
    }

    /// Makes the ports of an endpoint those that it has now. Where `was` is known, families in which it neither has nor had any
    /// are left alone.
    fn lead(&self, ground: &Ground, was: Option<&Guarded>, now: &Guarded) -> Result<()> {
        let leads = now.leads(ground);
        let had = was.map(|was| was.leads(ground)).unwrap_or_default();
        let mut changed = Vec::new();
        for tool in &self.tools {
            let ours = |lead: &&Lead| Family::of(lead.to) == tool.family();
            let wanted: Vec<_> = leads.iter().filter(ours).collect();
            if wanted.is_empty() && !had.iter().any(|lead| ours(&lead)) {
                continue;
            }
            let listing = tool.list(&[Table::Nat], self.owner)?;
            if let Some(taken) = listing.taken(&now.mark, &wanted) {
                return Err(taken);
            }
            let stood = listing.leads(&now.mark);
            changed.extend(wanted.iter().copied().filter(|lead| !stood.contains(lead)).copied());
            changed.extend(stood.iter().filter(|lead| !wanted.contains(lead)).copied());
            let rules: Vec<_> = wanted.into_iter().map(|lead| rules::lead(now.mark, lead)).collect();
            tool.restore(&listing.difference(self.owner, &rules, |mark| *mark == now.mark))?;
        }
        self.connections.with_driver(|nl| conntrack::forget(nl, &changed))
    }

    /// Fails where a family has a subnet and no tables, or the bridge a name that no rule can hold.
    fn possible(&self, ground: &Ground) -> Result<()> {
        rules::safe(&ground.bridge)?;
        let v6 = ground.subnets.iter().find(|subnet| subnet.family() == Family::V6);
        match (v6, &self.lacking) {
            (Some(subnet), Some(why)) => Err(Error::Unavailable {
                reason: format!("subnet {subnet} needs ip6tables ({why}); make the network without it"),
            }),
            _ => Ok(()),
        }
    }
}

/// The failure of a call, after which its work was undone, or not.
fn undone(err: Error, what: &str, undone: Result<()>) -> Error {
    match undone {
        Ok(()) => err,
        Err(left) => Error::Incomplete { what: what.to_owned(), failures: vec![err, left] },
    }
}

impl Firewall for Iptables {
    fn name(&self) -> &'static str {
        "iptables"
    }

    fn shields(&self) -> bool {
        true
    }

    fn close(&self, families: Families) -> Result<()> {
        let _lock = self.lock()?;
        let br_netfilter = setting::read("bridge/bridge-nf-call-iptables")?.is_some();
        for tool in self.tools.iter().filter(|tool| families.has(tool.family())) {
            let mark = self.mark(Scope::Driver);
            let mut wanted = rules::shared(tool.family(), mark);
            wanted.push(rules::close(mark, br_netfilter));
            let listing = tool.list(&Table::ALL, self.owner)?;
            tool.restore(&listing.difference(self.owner, &wanted, |other| *other == mark))?;
        }
        Ok(())
    }

    fn raise(&self, ground: &Ground) -> Result<bool> {
        self.possible(ground)?;
        let _lock = self.lock()?;
        let scope = Scope::Network(ground.network);
        let mut rebuilt = false;
        for tool in &self.tools {
            let wanted = self.ground(tool.family(), ground)?;
            let listing = tool.list(&Table::ALL, self.owner)?;
            let fresh = !listing.standing().any(|rule| rule.mark.scope == scope);
            let batch = listing.difference(self.owner, &wanted, |mark| mark.scope == scope);
            rebuilt |= !batch.is_empty();
            if let Err(err) = tool.restore(&batch) {
                // Of a new network nothing stays. What stood before this call does.
                let stale = |mark: &Mark| fresh && mark.scope == scope;
                return Err(undone(err, "rules of the network", self.remove("it", &Table::ALL, stale)));
            }
        }
        Ok(rebuilt)
    }

    fn lower(&self, network: NetworkId) -> Result<()> {
        let _lock = self.lock()?;
        let stale = |mark: &Mark| mark.scope == Scope::Network(network);
        self.remove(&format!("rules of network '{network}'"), &Table::ALL, stale)
    }

    fn guard(&self, ground: &Ground, endpoint: &Guarded) -> Result<()> {
        sender::guard(endpoint)?;
        let _lock = self.lock()?;
        self.lead(ground, None, endpoint).map_err(|err| {
            let left = self.remove("it", &[Table::Nat], |mark| *mark == endpoint.mark);
            undone(err, "published ports", left)
        })
    }

    fn publish(&self, ground: &Ground, was: &Guarded, now: &Guarded) -> Result<()> {
        if !sender::stands(now)? {
            sender::guard(now)?;
        }
        let _lock = self.lock()?;
        self.lead(ground, Some(was), now)
            .map_err(|err| undone(err, "change of published ports", self.lead(ground, Some(now), was)))
    }

    fn release(&self, mark: &Mark, was: Option<(&Ground, &Guarded)>) -> Result<()> {
        if was.is_some_and(|(ground, was)| was.leads(ground).is_empty()) {
            return Ok(());
        }
        let _lock = self.lock()?;
        let (mut failures, mut led) = (Vec::new(), Vec::new());
        for tool in &self.tools {
            let listing = tool.list(&[Table::Nat], self.owner);
            let removed = listing.and_then(|listing| {
                led.extend(listing.leads(mark));
                tool.restore(&listing.difference(self.owner, &[], |other| other == mark))
            });
            failures.extend(removed.err());
        }
        if let Some((ground, was)) = was {
            led.extend(was.leads(ground));
        }
        let forgotten = self.connections.with_driver(|nl| conntrack::forget_answered(nl, &led));
        failures.extend(forgotten.err());
        Error::unless_complete("published ports", failures)
    }

    fn missing(&self, ground: &Ground, endpoint: Option<&Guarded>) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for tool in &self.tools {
            let listing = tool.list(&Table::ALL, self.owner)?;
            let mut wanted = self.ground(tool.family(), ground)?;
            if let Some(endpoint) = endpoint {
                let leads = endpoint.leads(ground).into_iter();
                let ours = leads.filter(|lead| Family::of(lead.to) == tool.family());
                wanted.extend(ours.map(|lead| rules::lead(endpoint.mark, &lead)));
            }
            let absent = wanted.iter().filter(|rule| !listing.has(rule));
            missing.extend(absent.map(|rule| format!("rule '{}' of {}", rule.key, tool.name())));
        }
        if let Some(endpoint) = endpoint
            && !sender::stands(endpoint)?
        {
            missing.push(format!("filter of senders on '{}'", endpoint.interface));
        }
        Ok(missing)
    }

    fn list(&self) -> Result<Vec<Owned>> {
        let mut owned = Vec::new();
        for tool in &self.tools {
            let listing = tool.list(&Table::ALL, self.owner)?;
            let rule = |rule: &Standing| Owned {
                scope: rule.mark.scope,
                object: format!("rule '{}' of {} {}", rule.key, tool.name(), rule.table.name()),
            };
            owned.extend(listing.standing().map(rule));
            let chain = |(table, chain): (Table, Chain)| Owned {
                scope: Scope::Driver,
                object: format!("chain '{}' of {} {}", chain.name(self.owner), tool.name(), table.name()),
            };
            owned.extend(listing.chains().map(chain));
        }
        Ok(owned)
    }

    fn forbidden(&self, ground: &Ground) -> Result<Option<String>> {
        if ground.internal {
            return Ok(None);
        }
        let bridge = ground.bridge.as_str();
        let needed = |tool: &&Tool| ground.subnets.iter().any(|subnet| subnet.family() == tool.family());
        for tool in self.tools.iter().filter(needed) {
            let program = tool.name();
            if let Some(chain) = tool.list(&[Table::Filter], self.owner)?.shut(self.owner, bridge) {
                return Ok(Some(format!(
                    "chain '{chain}' of {program} drops what it forwards; open it with \
                     '{program} -I {USER} -i {bridge} -j ACCEPT' and '{program} -I {USER} -o {bridge} -j ACCEPT'"
                )));
            }
        }
        Ok(None)
    }

    fn clear(&self) -> Result<()> {
        let _lock = self.lock()?;
        let failures = self.tools.iter().filter_map(|tool| {
            tool.list(&Table::ALL, self.owner)
                .and_then(|listing| tool.restore(&listing.clearance(self.owner)))
                .err()
        });
        Error::unless_complete("firewall of the bridges", failures.collect())
    }
}

#[cfg(test)]
mod tests;
