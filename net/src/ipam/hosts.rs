//! The addresses of a subnet that hosts can have, and the next one in turn.

use std::net::IpAddr;

use mica_core::network::{Family, Pool, Subnet};
use mica_core::{Error, Result};

use super::{address, bounds, number};

/// Addresses in a row, never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    family: Family,
    first: u128,
    last: u128,
}

impl Hosts {
    /// Those that hosts of a subnet can have.
    ///
    /// IPv4: all but the first, which names the subnet, and the last, the broadcast address; both of a pair (RFC 3021).
    /// IPv6: all but the first, which is any router's (RFC 4291, 2.6.1); both of a pair (RFC 6164).
    pub(super) fn of_subnet(subnet: Subnet) -> Self {
        let family = subnet.family();
        let (first, last) = bounds(subnet);
        let (first, last) = match family {
            _ if subnet.prefix() >= family.bits() - 1 => (first, last),
            Family::V4 => (first + 1, last - 1),
            Family::V6 => (first + 1, last),
        };
        Self { family, first, last }
    }

    /// Those that a pool leases by itself: the hosts of its range. Fails with [`Error::Options`] for a range that is
    /// not in the subnet or holds none.
    pub(super) fn of_pool(pool: &Pool) -> Result<Self> {
        let all = Self::of_subnet(pool.subnet);
        let Some(range) = pool.range else { return Ok(all) };
        let (first, last) = bounds(range);
        let inside = range.family() == all.family && range.prefix() >= pool.subnet.prefix();
        let part = Self { first: first.max(all.first), last: last.min(all.last), ..all };
        if !inside || !pool.subnet.contains(range.first()) || part.first > part.last {
            return Err(Error::Options(format!(
                "the range {range} holds no address for a host of {}; take a part of that subnet",
                pool.subnet
            )));
        }
        Ok(part)
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family && (self.first..=self.last).contains(&number(ip))
    }

    /// How many there are; the largest number where it holds no more.
    pub(super) fn count(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// The first free one after `last`, going round at the end; `last` itself comes at the very end of the turn. It
    /// looks at one address more than are not free.
    pub(super) fn next(&self, last: Option<IpAddr>, free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let last = last.filter(|&last| self.contains(last)).map_or(self.last, number);
        let turn = (last..=self.last).skip(1).chain(self.first..=last);
        turn.map(|number| address(self.family, number)).find(|&ip| free(ip))
    }
}

/// Checks that a pool is one: its gateway, its reserved addresses and its range in its subnet, and an address left for an
/// endpoint. Fails with [`Error::Options`].
pub fn check_pool(pool: &Pool) -> Result<()> {
    let hosts = Hosts::of_pool(pool)?;
    if let Some(gateway) = pool.gateway {
        pool.subnet.address(gateway)?;
        if !Hosts::of_subnet(pool.subnet).contains(gateway) {
            return Err(Error::Options(format!(
                "the gateway {gateway} cannot be a host's in {}",
                pool.subnet
            )));
        }
    }
    for &reserved in &pool.reserved {
        pool.subnet.address(reserved)?;
    }
    let free = |ip| !kept(pool, ip);
    match hosts.next(None, free) {
        Some(_) => Ok(()),
        None => Err(Error::Options(format!(
            "{} has no address for an endpoint beside its gateway and the reserved ones; take a larger subnet",
            pool.range.unwrap_or(pool.subnet)
        ))),
    }
}

/// The address that a pool's router gets where none was named: the first that a host can have and that is not reserved.
pub fn router(pool: &Pool) -> Option<IpAddr> {
    Hosts::of_subnet(pool.subnet).next(None, |ip| !pool.reserved.contains(&ip))
}

/// Whether an address is something else's than an endpoint's.
pub(super) fn kept(pool: &Pool, ip: IpAddr) -> bool {
    pool.gateway == Some(ip) || pool.reserved.contains(&ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool { subnet: subnet.parse().unwrap(), gateway: None, range: None, reserved: Vec::new() }
    }

    fn all(pool: &Pool) -> Vec<String> {
        let hosts = Hosts::of_pool(pool).unwrap();
        let mut last = None;
        (0..hosts.count())
            .map(|_| {
                last = hosts.next(last, |_| true);
                last.unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn the_addresses_of_hosts_are_what_the_standards_leave() {
        assert_eq!(all(&pool("10.0.0.0/30")), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(all(&pool("10.0.0.0/31")), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(all(&pool("10.0.0.7/32")), ["10.0.0.7"]);
        assert_eq!(all(&pool("fd00::/126")), ["fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(all(&pool("fd00::/127")), ["fd00::", "fd00::1"]);
        assert_eq!(all(&pool("255.255.255.252/30")), ["255.255.255.253", "255.255.255.254"]);
        assert_eq!(all(&pool("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127")).len(), 2);
    }

    #[test]
    fn a_turn_goes_round_and_ends_where_it_began() {
        let hosts = Hosts::of_pool(&pool("10.0.0.0/29")).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(hosts.next(Some(ip("10.0.0.6")), |_| true), Some(ip("10.0.0.1")));
        assert_eq!(hosts.next(Some(ip("10.0.0.3")), |at| at == ip("10.0.0.3")), Some(ip("10.0.0.3")));
        assert_eq!(hosts.next(Some(ip("10.0.0.3")), |_| false), None);
        assert_eq!(hosts.next(Some(ip("192.168.0.1")), |_| true), Some(ip("10.0.0.1")), "of an older range");
    }

    #[test]
    fn a_range_is_a_part_of_its_subnet() {
        let ranged = |range: &str| Pool { range: Some(range.parse().unwrap()), ..pool("10.0.0.0/24") };
        assert_eq!(all(&ranged("10.0.0.8/30")), ["10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.0.11"]);
        assert_eq!(all(&ranged("10.0.0.0/30")), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        for bad in ["10.0.1.0/30", "10.0.0.0/16", "fd00::/64", "10.0.0.255/32"] {
            let text = check_pool(&ranged(bad)).unwrap_err().to_string();
            assert!(text.contains(bad) && text.contains("10.0.0.0/24"), "{text}");
        }
    }

    #[test]
    fn a_pool_that_leaves_no_address_is_refused() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let small = Pool { gateway: Some(ip("10.0.0.1")), ..pool("10.0.0.0/30") };
        check_pool(&small).unwrap();
        let text =
            check_pool(&Pool { reserved: vec![ip("10.0.0.2")], ..small.clone() }).unwrap_err().to_string();
        assert!(text.contains("take a larger subnet"), "{text}");
        for gateway in ["10.0.0.0", "10.0.0.3", "10.0.1.1", "fd00::1"] {
            assert!(check_pool(&Pool { gateway: Some(ip(gateway)), ..small.clone() }).is_err(), "{gateway}");
        }
        assert!(check_pool(&Pool { reserved: vec![ip("10.0.1.1")], ..small }).is_err());
    }

    #[test]
    fn a_router_gets_the_first_address_that_is_not_reserved() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(router(&pool("10.0.0.0/24")), Some(ip("10.0.0.1")));
        assert_eq!(router(&pool("fd00::/64")), Some(ip("fd00::1")));
        let reserved = Pool { reserved: vec![ip("10.0.0.1")], ..pool("10.0.0.0/24") };
        assert_eq!(router(&reserved), Some(ip("10.0.0.2")));
    }
}
