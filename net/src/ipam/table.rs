//! The leases of one network: who has which address, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{EndpointId, Family, Network, Pool};
use mica_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::hosts::{Hosts, kept};

/// What is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) held: BTreeMap<IpAddr, EndpointId>,
    /// The addresses that were chosen last.
    last: Last,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

/// Why there is no lease.
#[derive(Debug)]
pub(super) enum Denied {
    /// Others hold the address that was wished for, or every one of a pool: the number of those that it has.
    Held { by: Vec<EndpointId>, wish: Option<IpAddr>, of: u128 },
    /// Whatever others hold.
    Never(Error),
}

impl From<Error> for Denied {
    fn from(error: Error) -> Self {
        Self::Never(error)
    }
}

impl Table {
    /// One address of each pool: the one that is wished for, or the next in turn that nobody has and none was promised.
    /// On failure nothing was leased.
    pub(super) fn lease(
        &mut self,
        network: &Network,
        holder: EndpointId,
        wishes: &[IpAddr],
        promised: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, Denied> {
        if self.held.values().any(|&held| held == holder) {
            return Err(Error::AlreadyExists { what: format!("a lease of endpoint '{holder}'") }.into());
        }
        let wishes = by_family(network, wishes)?;
        let mut after = self.clone();
        let mut leased = Vec::new();
        for pool in &network.pools {
            let ip = match wishes.get(pool.subnet.family()) {
                Some(wish) => self.wished(network, pool, wish)?,
                None => after.next(pool, promised)?,
            };
            after.held.insert(ip, holder);
            leased.push(ip);
        }
        *self = after;
        Ok(leased)
    }

    /// What this endpoint holds is free again. Answers whether it held anything.
    pub(super) fn give_back(&mut self, holder: &EndpointId) -> bool {
        let before = self.held.len();
        self.held.retain(|_, held| held != holder);
        self.held.len() < before
    }

    fn wished(&self, network: &Network, pool: &Pool, wish: IpAddr) -> Result<IpAddr, Denied> {
        pool.subnet.address(wish)?;
        if !Hosts::of_subnet(pool.subnet).contains(wish) {
            let subnet = pool.subnet;
            return Err(Error::Options(format!("{wish} cannot be a host's in {subnet}; take another")).into());
        }
        if kept(pool, wish) {
            let role = if pool.gateway == Some(wish) { "its gateway" } else { "a reservation" };
            let what = format!("address {wish} of network '{}'", network.name);
            return Err(Error::InUse { what, by: role.to_owned() }.into());
        }
        match self.held.get(&wish) {
            Some(&by) => Err(Denied::Held { by: vec![by], wish: Some(wish), of: 1 }),
            None => Ok(wish),
        }
    }

    fn next(&mut self, pool: &Pool, promised: &BTreeSet<IpAddr>) -> Result<IpAddr, Denied> {
        let hosts = Hosts::of_pool(pool)?;
        let last = match pool.subnet.family() {
            Family::V4 => self.last.v4.map(IpAddr::from),
            Family::V6 => self.last.v6.map(IpAddr::from),
        };
        let free = |ip| !kept(pool, ip) && !promised.contains(&ip) && !self.held.contains_key(&ip);
        let Some(ip) = hosts.next(last, free) else {
            let by = self.held.iter().filter(|(ip, _)| hosts.contains(**ip)).map(|(_, &by)| by).collect();
            return Err(Denied::Held { by, wish: None, of: hosts.count() });
        };
        match ip {
            IpAddr::V4(ip) => self.last.v4 = Some(ip),
            IpAddr::V6(ip) => self.last.v6 = Some(ip),
        }
        Ok(ip)
    }
}

/// At most one wish of each family.
#[derive(Default)]
struct Wishes {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Wishes {
    fn get(&self, family: Family) -> Option<IpAddr> {
        if family == Family::V4 { self.v4 } else { self.v6 }
    }
}

fn by_family(network: &Network, wishes: &[IpAddr]) -> Result<Wishes> {
    let mut sorted = Wishes::default();
    for &wish in wishes {
        let family = Family::of(wish);
        if !network.pools.iter().any(|pool| pool.subnet.family() == family) {
            let name = &network.name;
            return Err(Error::Options(format!("address {wish}: network '{name}' has no {family}")));
        }
        let slot = if family == Family::V4 { &mut sorted.v4 } else { &mut sorted.v6 };
        if let Some(other) = slot.replace(wish) {
            return Err(Error::Options(format!(
                "addresses {other} and {wish}: an endpoint has one of each family in a network"
            )));
        }
    }
    Ok(sorted)
}
