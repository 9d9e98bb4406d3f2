//! Endpoints whose supervisor is gone, and those whose supervisor lives and has to be asked.

use std::collections::{BTreeMap, BTreeSet};

use super::{EndpointRecord, NetworkReport, Networks};
use crate::container::{Busy, Container};
use crate::supervisor::wire::Request;
use crate::{Error, Result};

impl Networks {
    /// Looks for endpoints of containers that do not run, and with `repair` takes them away.
    pub(super) fn check_abandoned(&self, repair: bool, report: &mut NetworkReport) -> Result<()> {
        for network in self.records()?.found {
            for record in self.endpoints(&network.network.id)? {
                let Some(_busy) = self.hold_abandoned(&record)? else { continue };
                let text = format!(
                    "endpoint of container '{}' in network '{}', which does not run",
                    record.name,
                    network.name()
                );
                match repair.then(|| self.end(&record)) {
                    None => report.faults.push(format!("{text}; 'mica network check --repair' removes it")),
                    Some(Ok(())) => report.done.push(format!("removed the {text}")),
                    Some(Err(error)) => report.faults.push(format!("{text}: {error}")),
                }
            }
        }
        Ok(())
    }

    /// Takes away the endpoints of containers that do not run. Answers whether there were any.
    pub(crate) fn release_abandoned(&self) -> Result<bool> {
        let mut any = false;
        for network in self.records()?.found {
            for record in self.endpoints(&network.network.id)? {
                if let Some(_busy) = self.hold_abandoned(&record)? {
                    self.end(&record)?;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// Has the supervisor of each container that is connected to something look at its endpoints, and with `repair` mend
    /// them. What was `found` before is told to be mended where nothing is the matter any more. A supervisor may wait for the
    /// lock of the networks: the caller does not hold it.
    pub(super) fn check_supervised(
        &self,
        repair: bool,
        mut found: BTreeMap<String, Error>,
        report: &mut NetworkReport,
    ) -> Result<()> {
        self.check_outside(repair, report)?;
        for container in self.connected()? {
            let now = ask(&container, &Request::CheckNetworks);
            let is_mended = repair && now.is_err() && ask(&container, &Request::Mend).is_ok();
            let left = if is_mended { ask(&container, &Request::CheckNetworks) } else { Ok(()) };
            let name = container.name();
            match (found.remove(container.id()).map_or(now, Err), left) {
                (Ok(()), _) => {}
                (Err(error), Ok(())) if repair => {
                    report.done.push(format!("mended for container '{name}': {error}"));
                }
                (Err(error), _) => report.faults.push(format!("container '{name}': {error}")),
            }
        }
        Ok(())
    }

    /// What supervisors find wrong, by the ids of their containers. The caller does not hold the lock of the networks.
    pub(super) fn faults_of_containers(&self) -> Result<BTreeMap<String, Error>> {
        let asked = self.connected()?.into_iter().filter_map(|container| {
            let fault = ask(&container, &Request::CheckNetworks).err()?;
            Some((container.id().to_owned(), fault))
        });
        Ok(asked.collect())
    }

    /// The containers that are connected to something.
    fn connected(&self) -> Result<Vec<Container>> {
        let mut ids = BTreeSet::new();
        for network in self.records()?.found {
            let endpoints = self.endpoints(&network.network.id)?.into_iter();
            ids.extend(endpoints.filter(|record| record.outside.is_none()).map(|record| record.container));
        }
        // One that was removed meanwhile has nothing to be looked at.
        let found = |id: String| Container::read(self.root.containers().join(id)).ok().flatten();
        Ok(ids.into_iter().filter_map(found).collect())
    }

    /// The lock of the container, if nobody looks after the endpoint; an empty one for a container that is gone.
    fn hold_abandoned(&self, record: &EndpointRecord) -> Result<Option<Option<Busy>>> {
        if record.outside.is_some() {
            return Ok(None);
        }
        match Busy::try_take(&self.root.containers().join(&record.container), &record.name) {
            Ok(busy) => Ok(busy.map(Some)),
            Err(Error::NoSuch { .. }) => Ok(Some(None)),
            Err(error) => Err(error),
        }
    }

    fn end(&self, record: &EndpointRecord) -> Result<()> {
        self.detach(record, None)?;
        self.give_back(record)
    }
}

/// A container that has just ended has nothing to say.
fn ask(container: &Container, request: &Request) -> Result<()> {
    match container.connect()? {
        Some(supervisor) => match container.ask_over(&supervisor, request) {
            Err(Error::Conflict(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        },
        None => Ok(()),
    }
}
