//! Ports that are asked for and that no network publishes.

use mica_core::Support;

use super::{Elected, NetworkRecord, Networks};
use crate::Result;
use crate::container::Networking;

impl Networks {
    /// Says which ports of a container in these networks are not published, why, and what would help. Nothing where all are.
    pub(crate) fn unpublished(
        &self,
        networking: &Networking,
        elected: &Elected,
        networks: &[&NetworkRecord],
    ) -> Result<Vec<String>> {
        let ports: Vec<String> = networking.published().iter().map(ToString::to_string).collect();
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let ports = ports.join(", ");
        let mut has_gateway = false;
        let mut notes = Vec::new();
        for network in networks {
            let families = elected.of(&network.network.id);
            if !families.v4 && !families.v6 {
                continue;
            }
            has_gateway = true;
            if let Support::No { reason } = &self.driver(&network.driver)?.capabilities().ports {
                let family = match (families.v4, families.v6) {
                    (true, false) => " by IPv4",
                    (false, true) => " by IPv6",
                    _ => "",
                };
                notes.push(format!(
                    "not published: {ports}: the container's way out{family} is network '{}', and driver '{}' publishes no ports \
                     ({reason}); a network of another driver with a higher gw-priority would publish them",
                    network.name(),
                    network.driver
                ));
            }
        }
        if !has_gateway {
            notes.push(format!(
                "not published: {ports}: none of the container's networks leads out of the host; connect it to one that is not \
                 internal"
            ));
        }
        Ok(notes)
    }
}
