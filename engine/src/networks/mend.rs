//! Mending the endpoints that lost their part of what was made anew.

use mica_core::network::NetworkId;

use super::{NetworkRecord, Networks, all};
use crate::container::link;
use crate::supervisor::wire::Request;
use crate::{Error, Result};

impl Networks {
    /// After `up` had to make anew what endpoints share: every endpoint of this driver may have lost its part of it, and gets that
    /// back, but for those of this container, which is its caller's. The networks in `standing` are up.
    ///
    /// Nobody is waited for: of two who wait for each other neither would answer.
    pub(crate) fn mend_others(&self, driver: &str, standing: &[NetworkId], container: &str) -> Result<()> {
        let mut failures = Vec::new();
        for network in self.all()?.found.iter().filter(|network| network.driver == driver) {
            let is_up = standing.contains(&network.network.id);
            failures.extend(self.mend_network(network, is_up, container).err());
        }
        all(failures)
    }

    fn mend_network(&self, network: &NetworkRecord, is_up: bool, container: &str) -> Result<()> {
        let endpoints = self.endpoints(&network.network.id)?;
        let mut others = endpoints.iter().filter(|other| other.container != container).peekable();
        if others.peek().is_none() || !is_up && !self.up(network)?.rebuilt {
            return Ok(());
        }
        self.mend_outside(network)?;
        for other in others.filter(|other| other.outside.is_none() && other.attachment.is_some()) {
            let dir = self.root.containers().join(&other.container);
            link::post(&dir, &Request::Mend).map_err(Error::io(|| {
                format!("have container '{}' mend its place in network '{}'", other.name, network.name())
            }))?;
        }
        Ok(())
    }
}
