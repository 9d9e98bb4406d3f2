//! What can be wished for in a network.

use std::net::IpAddr;

use mica_core::network::{Family, Pool};

use super::{DEFAULT, HOST, NONE, NetworkRecord};
use crate::container::ConnectWish;
use crate::{Error, Result};

impl NetworkRecord {
    /// Says why a container cannot be connected to it so, as far as the record tells. Whether an address is free is
    /// told by its lease.
    pub fn refuse_wish(&self, wish: &ConnectWish) -> Result<()> {
        let refuse = |why: &str| Err(Error::Invalid(why.to_owned()));
        match self.name() {
            name @ (HOST | NONE) => Err(Error::Invalid(format!(
                "container cannot be connected to network {name}: it has that one alone, from the start; make it with --network {name}"
            ))),
            DEFAULT if !wish.addresses.is_empty() => {
                refuse("user specified IP address is supported on user defined networks only")
            }
            DEFAULT if !wish.aliases.is_empty() => {
                refuse("network-scoped aliases are supported only for containers in user defined networks")
            }
            _ => wish.addresses.iter().try_for_each(|&address| self.refuse_address(address)),
        }
    }

    fn refuse_address(&self, address: IpAddr) -> Result<()> {
        // Where the engine does not lease addresses there may be none, and the driver knows.
        let pools = &self.network.pools;
        let mut of_family =
            pools.iter().filter(|pool| pool.subnet.family() == Family::of(address)).peekable();
        let known = match of_family.peek() {
            None if pools.is_empty() => return Ok(()),
            None => format!("no subnet of {}", Family::of(address)),
            Some(Pool { subnet, .. }) => format!("the subnet {subnet}"),
        };
        if of_family.any(|pool| pool.subnet.contains(address)) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "no configured subnet contains IP address {address}: network '{}' has {known}",
            self.name()
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mica_core::OptionMap;
    use mica_core::network::{Network, NetworkId};

    use super::*;

    fn record(name: &str, subnets: &[&str]) -> NetworkRecord {
        let pool = |text: &&str| Pool {
            subnet: text.parse().unwrap(),
            gateway: None,
            range: None,
            reserved: Vec::new(),
        };
        let pools = subnets.iter().map(pool).collect();
        let unrecorded = Network::unrecorded(NetworkId::from_bytes([1; 16]));
        NetworkRecord {
            driver: "driver".to_owned(),
            created: String::new(),
            labels: BTreeMap::new(),
            options: OptionMap::new(),
            auxiliary: BTreeMap::new(),
            network: Network { name: name.to_owned(), pools, ..unrecorded },
        }
    }

    fn said(name: &str, subnets: &[&str], address: &str) -> Option<String> {
        let wish = ConnectWish { addresses: vec![address.parse().unwrap()], ..ConnectWish::default() };
        record(name, subnets).refuse_wish(&wish).err().map(|error| error.to_string())
    }

    #[test]
    fn an_address_is_wished_for_in_a_subnet_of_a_users_network() {
        assert_eq!(said("web", &["10.9.0.0/24", "fd00::/64"], "10.9.0.9"), None);
        assert_eq!(said("web", &["10.9.0.0/24", "fd00::/64"], "fd00::9"), None);
        assert_eq!(said("lan", &[], "10.9.0.9"), None, "its driver knows");
        let text = said("web", &["10.9.0.0/24"], "10.8.0.9").unwrap();
        assert!(text.contains("10.8.0.9: network 'web' has the subnet 10.9.0.0/24"), "{text}");
        let text = said("web", &["10.9.0.0/24"], "fd00::9").unwrap();
        assert!(text.contains("has no subnet of IPv6"), "{text}");
        let text = said("bridge", &["10.9.0.0/24"], "10.9.0.9").unwrap();
        assert!(text.contains("user defined networks only"), "{text}");
    }

    #[test]
    fn names_are_answered_on_users_networks_only() {
        let wish = ConnectWish { aliases: vec!["a".to_owned()], ..ConnectWish::default() };
        record("web", &[]).refuse_wish(&wish).unwrap();
        let text = record("bridge", &[]).refuse_wish(&wish).unwrap_err().to_string();
        assert!(text.contains("network-scoped aliases are supported only"), "{text}");
    }

    #[test]
    fn no_container_is_connected_to_what_is_no_network() {
        for name in ["host", "none"] {
            let text = record(name, &[]).refuse_wish(&ConnectWish::default()).unwrap_err().to_string();
            assert!(text.contains(&format!("make it with --network {name}")), "{text}");
        }
    }
}
