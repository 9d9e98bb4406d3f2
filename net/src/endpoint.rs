//! What the record of an endpoint says together with that of its network.

use std::net::IpAddr;

use mica_core::network::{Address, Endpoint, Family, Network};
use mica_core::{Error, Result};

/// The addresses with their prefixes: those of a pool with its subnet's, link-local ones with their own. Fails with
/// [`Error::Options`] for one from elsewhere.
pub(crate) fn addresses(net: &Network, ep: &Endpoint) -> Result<Vec<Address>> {
    ep.addresses.iter().map(|&ip| address(net, ip)).collect()
}

fn address(net: &Network, ip: IpAddr) -> Result<Address> {
    match ip {
        IpAddr::V4(v4) if v4.is_link_local() => return Address::new(ip, 16),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => return Address::new(ip, 64),
        _ => {}
    }
    match net.pools.iter().find(|pool| pool.subnet.family() == Family::of(ip)) {
        Some(pool) => pool.subnet.address(ip),
        None => {
            let family = Family::of(ip);
            Err(Error::Options(format!("address {ip}: network '{}' has no {family}", net.name)))
        }
    }
}

/// Where the default routes lead for which this network is the gateway. Fails with [`Error::Options`] for a family in which
/// it cannot be one.
pub(crate) fn gateways(net: &Network, ep: &Endpoint) -> Result<Vec<IpAddr>> {
    let wanted = [Family::V4, Family::V6].into_iter().filter(|&family| ep.gateway.has(family));
    wanted.map(|family| gateway(net, family)).collect()
}

fn gateway(net: &Network, family: Family) -> Result<IpAddr> {
    let pool = net.pools.iter().find(|pool| pool.subnet.family() == family);
    pool.and_then(|pool| pool.gateway).filter(|_| net.routes.has(family)).ok_or_else(|| {
        Error::Options(format!("network '{}' has no gateway of {family} for a default route", net.name))
    })
}

#[cfg(test)]
mod tests {
    use mica_core::network::{EndpointId, Families, NetworkId, Pool};

    use super::*;

    fn network() -> Network {
        let pool = Pool {
            subnet: "10.0.0.0/24".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            range: None,
            reserved: Vec::new(),
        };
        Network {
            name: "web".to_owned(),
            pools: vec![pool],
            routes: Families { v4: true, v6: false },
            ..Network::unrecorded(NetworkId::from_bytes([1; 16]))
        }
    }

    fn endpoint(addresses: &[&str], gateway: Families) -> Endpoint {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Endpoint { addresses, gateway, ..Endpoint::unrecorded(EndpointId::from_bytes([2; 16])) }
    }

    #[test]
    fn an_address_has_the_prefix_of_its_pool_or_of_its_link() {
        let all = addresses(&network(), &endpoint(&["10.0.0.9", "169.254.1.1", "fe80::1"], Families::NONE));
        let all: Vec<_> = all.unwrap().iter().map(Address::to_string).collect();
        assert_eq!(all, ["10.0.0.9/24", "169.254.1.1/16", "fe80::1/64"]);
        for (bad, part) in [("10.0.1.9", "not in 10.0.0.0/24"), ("fd00::9", "'web' has no IPv6")] {
            let text = addresses(&network(), &endpoint(&[bad], Families::NONE)).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn only_a_family_that_is_routed_has_a_gateway() {
        let of = |v4, v6| gateways(&network(), &endpoint(&[], Families { v4, v6 }));
        assert_eq!(of(true, false).unwrap(), network().pools[0].gateway.into_iter().collect::<Vec<_>>());
        assert!(of(false, false).unwrap().is_empty());
        assert!(of(true, true).unwrap_err().to_string().contains("no gateway of IPv6"));
        let internal = Network { routes: Families::NONE, ..network() };
        assert!(gateways(&internal, &endpoint(&[], Families { v4: true, v6: false })).is_err());
    }
}
