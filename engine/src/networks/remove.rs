//! Removing networks: out of the kernel, then from the records.

use super::{NetworkRecord, Networks};
use crate::container::remove_file;
use crate::{Error, Result, root};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunedNetworks {
    /// The names of the networks.
    pub names: Vec<String>,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

impl Networks {
    /// Removes a network that no container is connected to.
    pub fn remove(&self, name: &str) -> Result<()> {
        let _alone = self.alone()?;
        let record = self.find(name)?;
        if record.is_predefined() {
            return Err(Error::Conflict(format!(
                "{} is a pre-defined network and cannot be removed",
                record.name()
            )));
        }
        self.refuse_used(&record, "remove")?;
        self.driver(&record.driver)?.down(&record.network)?;
        self.leases()?.forget(&record.network.id)?;
        self.forget_endpoints(&record)?;
        self.forget(&record.network.id)
    }

    /// Removes those of the networks that no container is connected to, but for the engine's own.
    pub fn prune(&self, wanted: impl Fn(&NetworkRecord) -> bool) -> Result<PrunedNetworks> {
        let mut pruned = PrunedNetworks::default();
        for record in self.records()?.whole()? {
            if record.is_predefined() || !wanted(&record) {
                continue;
            }
            match self.remove(&record.id()) {
                Ok(()) => pruned.names.push(record.name().to_owned()),
                // Somebody else was faster, or came to use it.
                Err(Error::NoSuch { .. } | Error::Conflict(_)) => {}
                Err(error) => pruned.failures.push(error.to_string()),
            }
        }
        Ok(pruned)
    }

    pub(super) fn refuse_used(&self, record: &NetworkRecord, doing: &str) -> Result<()> {
        if self.users(record)?.is_empty() {
            return Ok(());
        }
        self.release_abandoned()?;
        let mut users = self.users(record)?;
        users.sort();
        if users.is_empty() {
            return Ok(());
        }
        let users = users.join("', '");
        Err(Error::Conflict(format!(
            "{doing} network '{}': it is in use by '{users}'; stop the container or disconnect it first",
            record.name()
        )))
    }

    /// The directory of what is no record any more: nothing, or what a crash left aside.
    fn forget_endpoints(&self, record: &NetworkRecord) -> Result<()> {
        let dir = self.endpoint_dir(&record.network.id)?;
        for name in super::record::names(&dir)? {
            remove_file(&dir.join(name))?;
        }
        root::remove_tree(&dir)
    }
}
