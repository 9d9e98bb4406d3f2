//! The subnets of a network that is wanted: those that were named, and those that are chosen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mica_core::network::{Addressing, Family, NetCapabilities, OwnerId, Pool, Subnet};
use mica_core::{Error, Result, Support};
use mica_net::ipam::{Taken, blocks, check_free, choose};

/// What was said of a network's addresses. What is not said is chosen.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// At most one a family.
    pub subnets: Vec<Subnet>,
    /// Each in one of the subnets.
    pub gateways: Vec<IpAddr>,
    /// Each in one of the subnets: where leases come from.
    pub ranges: Vec<Subnet>,
    /// What something else has, by name; each in one of the subnets.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether there is IPv4; `None` is yes.
    pub ipv4: Option<bool>,
    /// Whether there is IPv6; `None` is yes where the driver can.
    pub ipv6: Option<bool>,
}

/// Who has what already.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    /// Other networks, whether they stand or not.
    pub(super) networks: Vec<Taken>,
    /// The host.
    pub(super) host: Vec<Taken>,
}

impl Wishes {
    /// The pools that answer them. Fails with [`Error::Options`] for wishes that do not go together, with
    /// [`Error::InUse`], naming all who have a part, for a subnet that is taken.
    pub(super) fn pools(&self, can: &NetCapabilities, owner: &OwnerId, ground: &Ground) -> Result<Vec<Pool>> {
        let mut pools = self.named()?;
        for pool in &pools {
            check_free(pool.subnet, &ground.networks)?;
            // A network that does not stand behind the host may be the very one that the host is in.
            if can.shielded {
                check_free(pool.subnet, &ground.host)?;
            }
        }
        let taken: Vec<Taken> = ground.networks.iter().chain(&ground.host).cloned().collect();
        for family in [Family::V4, Family::V6] {
            let is_named = pools.iter().any(|pool| pool.subnet.family() == family);
            if self.wants(family, is_named, can)? && !is_named {
                pools.push(pool(choose(&blocks(family, owner)?, &taken)?));
            }
        }
        pools.sort_by_key(|pool| pool.subnet.family().bits());
        if pools.is_empty() && can.addressing == Addressing::Engine {
            return Err(Error::Options(
                "a network without IPv4 and IPv6 has no addresses; leave one on".to_owned(),
            ));
        }
        Ok(pools)
    }

    /// Whether the network gets a subnet of this family.
    fn wants(&self, family: Family, is_named: bool, can: &NetCapabilities) -> Result<bool> {
        let said = if family == Family::V4 { self.ipv4 } else { self.ipv6 };
        if said == Some(false) && is_named {
            return Err(Error::Options(format!("a subnet of {family} was named, and {family} turned off")));
        }
        if can.addressing != Addressing::Engine {
            return Ok(false);
        }
        match (family, &can.ipv6) {
            (Family::V6, Support::No { reason }) if said == Some(true) || is_named => {
                Err(Error::Options(format!("a network with IPv6 cannot be made: {reason}")))
            }
            (Family::V6, Support::No { .. }) => Ok(false),
            _ => Ok(said != Some(false)),
        }
    }

    fn named(&self) -> Result<Vec<Pool>> {
        let mut pools: Vec<Pool> = self.subnets.iter().copied().map(pool).collect();
        for &gateway in &self.gateways {
            let pool = place(&mut pools, "gateway", gateway)?;
            if let Some(other) = pool.gateway.replace(gateway) {
                return Err(Error::Options(format!(
                    "gateways {other} and {gateway}: subnet {} has one; leave the other out",
                    pool.subnet
                )));
            }
        }
        for &range in &self.ranges {
            let pool = place(&mut pools, "range", range.first())?;
            if let Some(other) = pool.range.replace(range) {
                return Err(Error::Options(format!(
                    "ranges {other} and {range}: subnet {} has one; leave the other out",
                    pool.subnet
                )));
            }
        }
        for &address in self.auxiliary.values() {
            place(&mut pools, "auxiliary address", address)?.reserved.push(address);
        }
        Ok(pools)
    }
}

fn pool(subnet: Subnet) -> Pool {
    Pool { subnet, gateway: None, range: None, reserved: Vec::new() }
}

/// The pool that an address is in.
fn place<'a>(pools: &'a mut [Pool], what: &str, address: IpAddr) -> Result<&'a mut Pool> {
    let found = pools.iter_mut().find(|pool| pool.subnet.contains(address));
    found.ok_or_else(|| {
        Error::Options(format!(
            "{what} {address} is in no subnet of the network; name its subnet with --subnet"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: OwnerId = OwnerId::from_bytes([7; 8]);

    fn can(ipv6: Support) -> NetCapabilities {
        NetCapabilities {
            addressing: Addressing::Engine,
            ipv6,
            ports: Support::Yes,
            internal: Support::Yes,
            shielded: true,
            mac: true,
            live: true,
            max_endpoints: None,
        }
    }

    fn taken(subnet: &str, by: &str) -> Taken {
        Taken { subnet: subnet.parse().unwrap(), by: by.to_owned() }
    }

    fn subnets(wishes: &Wishes, ipv6: Support, ground: &Ground) -> Result<Vec<String>> {
        let pools = wishes.pools(&can(ipv6), &OWNER, ground)?;
        Ok(pools.iter().map(|pool| pool.subnet.to_string()).collect())
    }

    #[test]
    fn a_network_has_both_families_where_the_host_has() {
        let ground = Ground { networks: vec![taken("172.16.0.0/24", "network 'a'")], ..Ground::default() };
        let wishes = Wishes::default();
        let both = subnets(&wishes, Support::Yes, &ground).unwrap();
        assert_eq!(both, ["172.16.1.0/24", "fd07:707:707::/64"]);
        let off = Support::no("net.ipv6.conf.all.disable_ipv6 is 1");
        assert_eq!(subnets(&wishes, off.clone(), &ground).unwrap(), ["172.16.1.0/24"]);
        let text = subnets(&Wishes { ipv6: Some(true), ..wishes }, off, &ground).unwrap_err().to_string();
        assert!(text.contains("disable_ipv6 is 1"), "{text}");
    }

    #[test]
    fn a_family_that_is_turned_off_gets_no_subnet() {
        let ground = Ground::default();
        let without = |ipv4, ipv6| Wishes { ipv4: Some(ipv4), ipv6: Some(ipv6), ..Wishes::default() };
        assert_eq!(subnets(&without(true, false), Support::Yes, &ground).unwrap(), ["172.16.0.0/24"]);
        assert_eq!(subnets(&without(false, true), Support::Yes, &ground).unwrap(), ["fd07:707:707::/64"]);
        assert!(subnets(&without(false, false), Support::Yes, &ground).is_err());
        let both_ways = Wishes { subnets: vec!["10.0.0.0/24".parse().unwrap()], ..without(false, true) };
        assert!(subnets(&both_ways, Support::Yes, &ground).is_err());
    }

    #[test]
    fn a_subnet_that_is_taken_is_refused_with_all_who_have_a_part() {
        let wishes = Wishes { subnets: vec!["10.0.0.0/8".parse().unwrap()], ..Wishes::default() };
        let ground = Ground {
            networks: vec![taken("10.1.0.0/24", "network 'a'"), taken("10.2.0.0/24", "network 'b'")],
            host: vec![taken("10.9.0.0/16", "interface 'tun0'")],
        };
        let text = subnets(&wishes, Support::Yes, &ground).unwrap_err().to_string();
        assert!(text.contains("network 'a' with 10.1.0.0/24 and network 'b'"), "{text}");
        let text = subnets(&wishes, Support::Yes, &Ground { networks: Vec::new(), ..ground })
            .unwrap_err()
            .to_string();
        assert!(text.contains("interface 'tun0'"), "{text}");
    }

    #[test]
    fn what_belongs_to_a_subnet_is_given_to_it() {
        let wishes = Wishes {
            subnets: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
            gateways: vec!["fd00::5".parse().unwrap(), "10.0.0.5".parse().unwrap()],
            ranges: vec!["10.0.0.128/25".parse().unwrap()],
            auxiliary: BTreeMap::from([("nas".to_owned(), "10.0.0.9".parse().unwrap())]),
            ..Wishes::default()
        };
        let pools = wishes.pools(&can(Support::Yes), &OWNER, &Ground::default()).unwrap();
        assert_eq!(pools[0].gateway, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(pools[0].range, Some("10.0.0.128/25".parse().unwrap()));
        assert_eq!(pools[0].reserved, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(pools[1].gateway, Some("fd00::5".parse().unwrap()));
        let stray = Wishes { gateways: vec!["10.0.1.1".parse().unwrap()], ..wishes.clone() };
        let text = stray.named().unwrap_err().to_string();
        assert!(text.contains("10.0.1.1 is in no subnet of the network"), "{text}");
        let two =
            Wishes { gateways: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()], ..wishes };
        assert!(two.named().unwrap_err().to_string().contains("leave the other out"));
    }
}
