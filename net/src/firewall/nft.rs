//! The firewall over nftables, spoken to by netlink; no program is run.
//!
//! [`ruleset`] is written once per engine, into a table of family `inet` and one of family `bridge`, and is the same for all
//! networks. What tells them apart is [`elements`] of [`set`]s: a port that is published costs one element, whatever else there
//! is. Every element has the mark of what it stands for as its comment.
//!
//! Senders are guarded in the family `bridge`, not by hooks of each port's own (`netdev`): one chain does for all ports, with one
//! lookup for most of what they send, and what is left when a port vanishes are elements, which bear marks, and no hooks, which
//! bear none.

mod elements;
mod expression;
mod foreign;
mod legacy;
mod nfta;
mod ruleset;
mod set;

use std::io;

use mica_core::network::{Families, Mark, NetworkId, Owned, OwnerId, Protocol, Scope};
use mica_core::{Error, Result};

use super::nfnetlink::{Attributes, Connections, Message, Netfilter, Refused, find, text};
use super::{Firewall, Ground, Guarded, Lead, conntrack};
use set::{Element, Family, Layer, Measures, Set, ifname};

/// The back end.
#[derive(Debug)]
pub(crate) struct Nft {
    owner: OwnerId,
    table: String,
    connections: Connections,
}

impl Nft {
    /// Fails with `Unavailable` where the kernel has no nftables, or takes not all of the rules. Nothing is written for that:
    /// rules that do not stand yet are tried in a transaction that cannot succeed.
    pub(crate) fn open(owner: OwnerId) -> Result<Self> {
        let nft = Self { owner, table: ruleset::table(owner), connections: Connections::default() };
        nft.connections.with(|nl| nft.probe(nl)).map_err(|error: io::Error| {
            let reason = match error.kind() {
                io::ErrorKind::PermissionDenied => "nftables takes CAP_NET_ADMIN; run it as root".to_owned(),
                _ => format!("the kernel has no nftables, or not all of it that is needed: {error}"),
            };
            Error::Unavailable { reason }
        })?;
        Ok(nft)
    }

    fn probe(&self, nl: &mut Netfilter) -> io::Result<()> {
        let table = |name: &str| Attributes::new().text(nfta::TABLE_NAME, name);
        let look = ruleset::request(Layer::Inet, libc::NFT_MSG_GETTABLE, table(&self.table));
        if nl.get(&look)?.is_some() {
            return Ok(());
        }
        let mut messages = ruleset::written(self.owner);
        let last = messages.len();
        let nothing = table("mica_no_such_table");
        messages.push(ruleset::request(Layer::Inet, libc::NFT_MSG_DELTABLE, nothing));
        match nl.transact(&messages) {
            Err(Refused { message: Some(place), .. }) if place == last => Ok(()),
            Err(Refused { error, .. }) => Err(error),
            Ok(()) => Err(io::Error::other("a transaction that could not succeed did")),
        }
    }

    /// A request about elements, in as many messages as they take.
    fn about(&self, message: i32, flags: i32, elements: &[Element]) -> Vec<Message> {
        /// An attribute holds less than 64 KiB.
        const MOST: usize = 60_000;
        let mut messages = Vec::new();
        let mut mark = None;
        let mut comment = Vec::new();
        for set in Set::all() {
            let mut rest = elements.iter().filter(|element| element.set == set).peekable();
            while rest.peek().is_some() {
                let request = self.inside(set).within(nfta::SET_ELEM_LIST_ELEMENTS, |mut list| {
                    while list.len() < MOST
                        && let Some(element) = rest.next()
                    {
                        if message != libc::NFT_MSG_NEWSETELEM {
                            list = element.write_name(list);
                            continue;
                        }
                        if mark.replace(element.mark) != Some(element.mark) {
                            comment = set::comment(&element.mark);
                        }
                        list = element.write(list, &comment);
                    }
                    list
                });
                messages.push(ruleset::request(set.layer(), message, request).with(flags));
            }
        }
        messages
    }

    /// The set that a request about elements is about.
    fn inside(&self, set: Set) -> Attributes {
        let table = Attributes::new().text(nfta::SET_ELEM_LIST_TABLE, &self.table);
        table.text(nfta::SET_ELEM_LIST_SET, set.name())
    }

    fn add(&self, elements: &[Element]) -> Vec<Message> {
        self.about(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, elements)
    }

    fn delete(&self, elements: &[Element]) -> Vec<Message> {
        self.about(libc::NFT_MSG_DELSETELEM, 0, elements)
    }

    /// The element that has the key of this one, whatever else it says.
    fn same_key(&self, nl: &mut Netfilter, element: &Element) -> io::Result<Option<Element>> {
        let named =
            self.inside(element.set).within(nfta::SET_ELEM_LIST_ELEMENTS, |list| element.write_name(list));
        let request = ruleset::request(element.set.layer(), libc::NFT_MSG_GETSETELEM, named);
        let found = nl.get(&request)?.map(|answer| Element::read(element.set, &answer.attributes));
        Ok(found.and_then(|mut found| found.pop()))
    }

    /// Those of these elements that stand, or that do not.
    fn sift(&self, nl: &mut Netfilter, elements: Vec<Element>, standing: bool) -> io::Result<Vec<Element>> {
        let mut sifted = Vec::new();
        for element in elements {
            if (self.same_key(nl, &element)?.as_ref() == Some(&element)) == standing {
                sifted.push(element);
            }
        }
        Ok(sifted)
    }

    /// Every element of a set that bears a mark of this engine.
    fn elements(&self, nl: &mut Netfilter, set: Set) -> io::Result<Vec<Element>> {
        let request = ruleset::request(set.layer(), libc::NFT_MSG_GETSETELEM, self.inside(set));
        let answers = nl.dump(&request)?;
        let read = answers.iter().flat_map(|answer| Element::read(set, &answer.attributes));
        Ok(read.filter(|element| element.mark.owner == self.owner).collect())
    }

    /// The chains that are not as they should be.
    fn faults(&self, nl: &mut Netfilter) -> io::Result<Vec<String>> {
        let mut faults = Vec::new();
        let chains = ruleset::chains(self.owner);
        for layer in Layer::ALL {
            let of_table = Attributes::new().text(nfta::RULE_TABLE, &self.table);
            let rules = nl.dump(&ruleset::request(layer, libc::NFT_MSG_GETRULE, of_table))?;
            for chain in chains.iter().filter(|chain| chain.layer == layer) {
                let inside = |rule: &&[u8]| text(rule, nfta::RULE_CHAIN) == Some(chain.name);
                let sum = |rule: &[u8]| find(rule, nfta::RULE_USERDATA).and_then(ruleset::sum_in);
                let found = rules.iter().map(|rule| &rule.attributes[..]).filter(inside).map(sum);
                if !found.eq(chain.sums().map(Some)) {
                    let (name, layer) = (chain.name, layer.name());
                    faults.push(format!("rules of chain '{name}' of table '{layer} {}'", self.table));
                }
            }
        }
        Ok(faults)
    }

    /// What makes the rules stand; nothing where they do.
    fn standing(&self, nl: &mut Netfilter) -> io::Result<Vec<Message>> {
        Ok(if self.faults(nl)?.is_empty() { Vec::new() } else { ruleset::written(self.owner) })
    }

    fn cuts(&self, nl: &mut Netfilter, ground: &Ground) -> io::Result<Vec<foreign::Cut>> {
        let families: Vec<u8> = ground.subnets.iter().map(|subnet| subnet.family().nfproto()).collect();
        foreign::cuts(nl, &self.table, &families, ground.bridge.as_str())
    }

    /// Takes elements away and adds others, and forgets what went by the ports among them. All of it, or nothing.
    fn exchange(&self, nl: &mut Netfilter, gone: Vec<Element>, new: &[Element], flags: i32) -> Result<()> {
        let gone = self.swap(nl, gone, new, flags)?;
        // Those who sent to a port before it was published go on past it, where nothing ends their connection.
        let before = leads(new).filter(|lead| lead.protocol == Protocol::Udp);
        let stale: Vec<Lead> = leads(&gone).chain(before).collect();
        let Err(error) = conntrack::forget(nl, &stale) else { return Ok(()) };
        let mut back = self.delete(new);
        back.extend(self.add(&gone));
        match nl.transact(&back) {
            Ok(()) => Err(error),
            Err(refused) => Err(Error::Incomplete {
                what: "a change of the firewall".to_owned(),
                failures: vec![error, self.failed(refused)],
            }),
        }
    }

    /// Takes elements away that should stand, and adds others. Answers which stood: that is looked for only where not all of
    /// them did, which the transaction says by itself.
    fn swap(
        &self,
        nl: &mut Netfilter,
        gone: Vec<Element>,
        new: &[Element],
        flags: i32,
    ) -> Result<Vec<Element>> {
        let send = |nl: &mut Netfilter, gone: &[Element]| {
            let mut messages = self.delete(gone);
            messages.extend(self.about(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | flags, new));
            nl.transact(&messages)
        };
        let gone = match send(nl, &gone) {
            Ok(()) => return Ok(gone),
            Err(refused) if refused.error.kind() == io::ErrorKind::NotFound && !gone.is_empty() => {
                self.io(self.sift(nl, gone, true))?
            }
            Err(refused) => return Err(self.taken(nl, new, refused)),
        };
        send(nl, &gone).map_err(|refused| self.taken(nl, new, refused))?;
        Ok(gone)
    }

    /// Says who has what was refused.
    fn taken(&self, nl: &mut Netfilter, elements: &[Element], refused: Refused) -> Error {
        if matches!(refused.error.raw_os_error(), Some(libc::EEXIST | libc::EBUSY)) {
            for element in elements {
                if let Ok(Some(other)) = self.same_key(nl, element) {
                    return held(element, &other);
                }
            }
        }
        self.failed(refused)
    }

    fn failed(&self, refused: Refused) -> Error {
        Error::driver(format!("change the rules of table '{}'", self.table), refused.error)
    }

    fn io<T>(&self, done: io::Result<T>) -> Result<T> {
        done.map_err(Error::io(|| format!("look at the rules of table '{}'", self.table)))
    }

    fn transact(&self, nl: &mut Netfilter, messages: &[Message]) -> Result<()> {
        nl.transact(messages).map_err(|refused| self.failed(refused))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Netfilter) -> Result<T>) -> Result<T> {
        self.connections.with_driver(work)
    }

    /// The tables of this engine that are there.
    fn tables(&self, nl: &mut Netfilter) -> Result<Vec<Layer>> {
        let mut tables = Vec::new();
        for layer in Layer::ALL {
            let named = Attributes::new().text(nfta::TABLE_NAME, &self.table);
            if self.io(nl.get(&ruleset::request(layer, libc::NFT_MSG_GETTABLE, named)))?.is_some() {
                tables.push(layer);
            }
        }
        Ok(tables)
    }

    /// What deletes the rules in others' tables for which this holds.
    fn foreign(&self, nl: &mut Netfilter, meant: impl Fn(Scope) -> bool) -> Result<Vec<Message>> {
        let ours = self.io(foreign::ours(nl))?.into_iter();
        let meant = ours.filter(|(mark, ..)| mark.owner == self.owner && meant(mark.scope));
        Ok(meant.map(|(.., delete)| delete).collect())
    }
}

/// Who has what an element wants.
fn held(element: &Element, other: &Element) -> Error {
    let by = match other.mark.scope {
        Scope::Endpoint(_, endpoint) if other.mark != element.mark => format!("endpoint '{endpoint}'"),
        Scope::Endpoint(_, endpoint) => {
            return Error::AlreadyExists { what: format!("the guard of endpoint '{endpoint}'") };
        }
        _ => "another network".to_owned(),
    };
    Error::InUse { what: what(element), by }
}

/// What an element does, for people.
fn what(element: &Element) -> String {
    match elements::lead(element) {
        Some(lead) => format!("port {lead}"),
        None => format!("an element of set '{}' of the firewall", element.set.name()),
    }
}

impl Firewall for Nft {
    fn name(&self) -> &'static str {
        "nft"
    }

    fn shields(&self) -> bool {
        true
    }

    fn close(&self, families: Families) -> Result<()> {
        self.with(|nl| {
            let wanted = [Family::V4, Family::V6].into_iter().filter(|family| families.has(*family));
            let elements = wanted.map(|family| elements::closing(self.owner, family)).collect();
            let mut messages = self.io(self.standing(nl))?;
            messages.extend(self.add(&self.io(self.sift(nl, elements, false))?));
            self.transact(nl, &messages)
        })
    }

    fn raise(&self, ground: &Ground) -> Result<bool> {
        self.with(|nl| {
            let mut messages = self.io(self.standing(nl))?;
            let elements = elements::of_network(self.owner, ground);
            messages.extend(self.add(&self.io(self.sift(nl, elements, false))?));
            let rebuilt = !messages.is_empty();
            let mark = Mark { owner: self.owner, scope: Scope::Network(ground.network) };
            let bridge = ifname(&ground.bridge);
            let cuts = self.io(self.cuts(nl, ground))?;
            messages.extend(cuts.iter().flat_map(|cut| cut.opening(&mark, &bridge)));
            self.transact(nl, &messages)?;
            Ok(rebuilt)
        })
    }

    fn lower(&self, network: NetworkId) -> Result<()> {
        self.with(|nl| {
            let mut messages = self.foreign(nl, |scope| scope == Scope::Network(network))?;
            for set in Set::OF_NETWORKS {
                let mut elements = self.io(self.elements(nl, set))?;
                elements.retain(|element| element.mark.scope == Scope::Network(network));
                messages.extend(self.delete(&elements));
            }
            self.transact(nl, &messages)
        })
    }

    fn guard(&self, ground: &Ground, endpoint: &Guarded) -> Result<()> {
        self.with(|nl| {
            self.exchange(nl, Vec::new(), &elements::of_endpoint(ground, endpoint), libc::NLM_F_EXCL)
        })
    }

    fn publish(&self, ground: &Ground, was: &Guarded, now: &Guarded) -> Result<()> {
        self.with(|nl| {
            // All else of the guard is the same.
            let (before, after) = (elements::of_leads(ground, was), elements::of_leads(ground, now));
            let gone: Vec<_> = before.difference(&after).cloned().collect();
            let mut new: Vec<_> = after.into_iter().filter(|one| !before.contains(one)).collect();
            if gone.is_empty() && new.is_empty() {
                new = self.io(self.sift(nl, elements::of_endpoint(ground, now), false))?;
            }
            self.exchange(nl, gone, &new, 0)
        })
    }

    fn release(&self, mark: &Mark, was: Option<(&Ground, &Guarded)>) -> Result<()> {
        self.with(|nl| {
            let found = match was {
                // Among them is the endpoint's place in the set of all, which is no other's: as long as it stands, so do the rest.
                Some((ground, endpoint)) => self.swap(nl, elements::of_endpoint(ground, endpoint), &[], 0)?,
                None => {
                    let mut found = Vec::new();
                    for set in Set::OF_ENDPOINTS {
                        found.extend(self.io(self.elements(nl, set))?);
                    }
                    found.retain(|element| element.mark == *mark);
                    self.transact(nl, &self.delete(&found))?;
                    found
                }
            };
            // Those of a release that failed at this point are found no more, but known.
            let known = was.map(|(ground, endpoint)| endpoint.leads(ground));
            conntrack::forget_answered(nl, &known.unwrap_or_else(|| leads(&found).collect()))
        })
    }

    fn missing(&self, ground: &Ground, endpoint: Option<&Guarded>) -> Result<Vec<String>> {
        self.with(|nl| {
            let mut faults = self.io(self.faults(nl))?;
            let mut elements = elements::of_network(self.owner, ground);
            elements
                .extend(endpoint.into_iter().flat_map(|endpoint| elements::of_endpoint(ground, endpoint)));
            faults.extend(self.io(self.sift(nl, elements, false))?.iter().map(what));
            faults.dedup();
            Ok(faults)
        })
    }

    fn list(&self) -> Result<Vec<Owned>> {
        self.with(|nl| {
            let mut owned = Vec::new();
            for layer in self.tables(nl)? {
                let object = format!("nftables table '{} {}'", layer.name(), self.table);
                owned.push(Owned { scope: Scope::Driver, object });
            }
            for set in Set::all() {
                let elements = self.io(self.elements(nl, set))?;
                owned.extend(elements.iter().map(|e| Owned { scope: e.mark.scope, object: what(e) }));
            }
            let foreign = self.io(foreign::ours(nl))?.into_iter();
            let ours = foreign.filter(|(mark, ..)| mark.owner == self.owner);
            owned.extend(ours.map(|(mark, object, _)| Owned { scope: mark.scope, object }));
            Ok(owned)
        })
    }

    fn forbidden(&self, ground: &Ground) -> Result<Option<String>> {
        self.with(|nl| {
            let cuts = self.io(self.cuts(nl, ground))?;
            Ok(cuts.first().map(|cut| cut.text(ground.bridge.as_str())))
        })
    }

    fn clear(&self) -> Result<()> {
        self.with(|nl| {
            let mut messages = self.foreign(nl, |_| true)?;
            for layer in self.tables(nl)? {
                let table = Attributes::new().text(nfta::TABLE_NAME, &self.table);
                messages.push(ruleset::request(layer, libc::NFT_MSG_DELTABLE, table));
            }
            self.transact(nl, &messages)
        })
    }
}

/// What is published among these.
fn leads(elements: &[Element]) -> impl Iterator<Item = Lead> {
    elements.iter().filter_map(elements::lead)
}

#[cfg(test)]
mod tests;
