//! Which of a container's networks is its gateway, in each family.

use mica_core::network::{Families, Family, NetworkId, elect};

use super::NetworkRecord;
use crate::container::Connection;

/// The gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elected {
    v4: Option<NetworkId>,
    v6: Option<NetworkId>,
}

impl Elected {
    /// Elects among the networks of these connections.
    pub(crate) fn among(networks: &[&NetworkRecord], connections: &[Connection]) -> Self {
        let priority = |id| {
            let connection = connections.iter().find(|connection| connection.network == id);
            connection.map_or(0, |connection| connection.wish.priority)
        };
        let elected = |family| {
            elect(family, networks.iter().map(|record| (&record.network, priority(record.network.id))))
        };
        Self { v4: elected(Family::V4), v6: elected(Family::V6) }
    }

    /// In which families this network is.
    pub(crate) fn of(&self, network: &NetworkId) -> Families {
        Families { v4: self.v4.as_ref() == Some(network), v6: self.v6.as_ref() == Some(network) }
    }
}
