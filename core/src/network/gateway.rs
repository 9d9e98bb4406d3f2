//! Which of a container's networks carries its default route.

use std::cmp::Reverse;

use super::{Family, Network, NetworkId};

/// Elects the network through which a container reaches the world in this family, and on which its ports are
/// published: one that [can carry](Network::routes) a default route, of the highest priority; among equals one that
/// can carry both families; then the first by name, then by id. `None` where no network can.
///
/// The answer depends on nothing but the networks and their priorities, not on their order, so every command that
/// asks gets the same one, after a crash too.
pub fn elect<'a>(
    family: Family,
    connected: impl IntoIterator<Item = (&'a Network, i32)>,
) -> Option<NetworkId> {
    let able = connected.into_iter().filter(|(network, _)| network.routes.has(family));
    let best = able.min_by_key(|&(network, priority)| {
        let both = network.routes.v4 && network.routes.v6;
        (Reverse(priority), Reverse(both), network.name.as_str(), network.id)
    });
    best.map(|(network, _)| network.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Families;

    fn network(name: &str, v4: bool, v6: bool) -> Network {
        let id = NetworkId::from_bytes([name.len() as u8; 16]);
        Network { name: name.to_owned(), routes: Families { v4, v6 }, ..Network::unrecorded(id) }
    }

    fn elected<'a>(family: Family, connected: &[(&'a Network, i32)]) -> Option<&'a str> {
        let id = elect(family, connected.iter().copied())?;
        connected.iter().find(|(network, _)| network.id == id).map(|(network, _)| network.name.as_str())
    }

    #[test]
    fn each_family_has_its_own_gateway() {
        let (four, sixth, inner) =
            (network("four", true, false), network("sixth", false, true), network("inside", false, false));
        let all = [(&inner, 9), (&four, 0), (&sixth, 0)];
        assert_eq!(elected(Family::V4, &all), Some("four"));
        assert_eq!(elected(Family::V6, &all), Some("sixth"));
        assert_eq!(elected(Family::V4, &[(&inner, 9)]), None);
    }

    #[test]
    fn priority_comes_before_both_families_and_these_before_the_name() {
        let (a, bb, ccc) = (network("a", true, false), network("bb", true, true), network("ccc", true, true));
        assert_eq!(elected(Family::V4, &[(&a, 1), (&bb, 0)]), Some("a"));
        assert_eq!(elected(Family::V4, &[(&a, 0), (&ccc, 0), (&bb, 0)]), Some("bb"));
    }

    #[test]
    fn a_disconnected_gateway_is_followed_by_the_same_network_whatever_the_order() {
        let (a, bb, ccc) = (network("a", true, true), network("bb", true, true), network("ccc", true, true));
        assert_eq!(elected(Family::V6, &[(&ccc, 0), (&a, 0), (&bb, 0)]), Some("a"));
        assert_eq!(elected(Family::V6, &[(&ccc, 0), (&bb, 0)]), Some("bb"));
        assert_eq!(elected(Family::V6, &[(&bb, 0), (&ccc, 0)]), Some("bb"));
    }
}
