//! Mending the endpoints that lost their part of what was made anew.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use mica_core::network::{HostChange, NetworkId};

use super::{NetworkRecord, Networks, all, here};
use crate::container::link;
use crate::supervisor::wire::Request;
use crate::{Error, Result, root};

impl Networks {
    /// Brings back what somebody took from all endpoints at once, as who flushes the host's rules does. One network of each driver
    /// that has endpoints is looked at, unless some network was within this time: under iptables a look takes as long as the ten programs
    /// that it starts. Answers what that changed of the host.
    ///
    /// In another network namespace than the networks are in nothing is looked at, let alone made.
    pub fn mend_lost(&self, within: Duration) -> Result<Vec<HostChange>> {
        if !self.stand_here(within)? {
            return Ok(Vec::new());
        }
        let mut used = BTreeMap::new();
        for network in self.records()?.found {
            if !used.contains_key(&network.driver) && !self.endpoints(&network.network.id)?.is_empty() {
                used.insert(network.driver.clone(), network);
            }
        }
        let (mut changes, mut failures) = (Vec::new(), Vec::new());
        for (driver, network) in used {
            match self.up(&network) {
                Ok(raised) => {
                    changes.extend(raised.host);
                    let lost = raised.rebuilt.then(|| self.mend_others(&driver, &[network.network.id], ""));
                    failures.extend(lost.and_then(Result::err));
                }
                Err(error) => failures.push(error),
            }
        }
        all(failures).map(|()| changes)
    }

    /// Whether networks were made to stand in the network namespace of the calling thread, and none was looked at within this time.
    fn stand_here(&self, within: Duration) -> Result<bool> {
        if !self.root.owner().exists() {
            return Ok(false);
        }
        let path = self.run()?.join("namespace");
        let age = fs::metadata(&path).and_then(|file| file.modified()).map(|time| time.elapsed());
        // A clock that was set back says nothing.
        if matches!(age, Ok(Ok(age)) if age < within) {
            return Ok(false);
        }
        let noted = root::read_optional(&path, 64)?;
        let here = here().map_err(Error::io(|| "look at the network namespace"))?;
        Ok(noted.is_some_and(|noted| noted == text(here).as_bytes()))
    }

    /// Notes that networks stand in the network namespace of the calling thread, and were looked at now.
    pub(super) fn note_namespace(&self) -> Result<()> {
        let path = self.run()?.join("namespace");
        let noted = here().and_then(|here| fs::write(&path, text(here)));
        noted.map_err(Error::io(|| format!("write '{}'", path.display())))
    }

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

fn text((device, inode): (u64, u64)) -> String {
    format!("{device} {inode}\n")
}
