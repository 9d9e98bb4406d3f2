//! Which of a container's networks is its gateway, in each family.

use mica_core::network::{Families, Family, NetworkId, elect};

use super::Sandbox;
use crate::networks::NetworkRecord;

/// The gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elected {
    v4: Option<NetworkId>,
    v6: Option<NetworkId>,
}

impl Elected {
    /// In which families this network is.
    pub(super) fn of(&self, network: &NetworkId) -> Families {
        Families { v4: self.v4.as_ref() == Some(network), v6: self.v6.as_ref() == Some(network) }
    }
}

impl Sandbox<'_> {
    /// Elects among networks that the container is connected to.
    pub(super) fn elect(&self, networks: &[&NetworkRecord]) -> Elected {
        let priority = |id| {
            let connection = self.connections.iter().find(|connection| connection.network == id);
            connection.map_or(0, |connection| connection.wish.priority)
        };
        let elected = |family| {
            elect(family, networks.iter().map(|record| (&record.network, priority(record.network.id))))
        };
        Elected { v4: elected(Family::V4), v6: elected(Family::V6) }
    }
}
