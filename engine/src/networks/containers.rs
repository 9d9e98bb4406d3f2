//! What a container has in networks: found, and taken away.

use std::os::fd::BorrowedFd;
use std::path::Path;

use mica_core::failpoint;
use mica_core::network::{NetworkId, Port};

use super::record::{MAX_RECORD, names};
use super::{EndpointRecord, NetworkRecord, Networks};
use crate::{Error, Result, root};

impl Networks {
    /// The record of the network with this id, which was called `name`.
    pub(crate) fn of_id(&self, id: &NetworkId, name: &str) -> Result<NetworkRecord> {
        self.read_record(id)?.ok_or_else(|| {
            Error::no_such(
                "network",
                format!("{name}, with id {id}: it was removed; disconnect the container from it"),
            )
        })
    }

    /// All that a container has, the latest interface first.
    pub(crate) fn endpoints_of(&self, container: &str) -> Result<Vec<EndpointRecord>> {
        let dir = self.run()?.join("endpoints");
        let mut found = Vec::new();
        for network in names(&dir)? {
            found.extend(read(&dir.join(network).join(format!("{container}.json")))?);
        }
        found.sort_by(|one, other| other.endpoint.interface.cmp(&one.endpoint.interface));
        Ok(found)
    }

    /// Every port of the host that leads to an endpoint, but to those of this container, with whose that is, for people.
    pub(crate) fn published(&self, but: Option<&str>) -> Result<Vec<(Port, String)>> {
        let mut published = Vec::new();
        for network in self.records()?.found {
            let mut endpoints = self.endpoints(&network.network.id)?;
            endpoints.retain(|endpoint| Some(&endpoint.container[..]) != but);
            for EndpointRecord { name, endpoint, .. } in endpoints {
                let holder = |port| (port, format!("container '{name}'"));
                published.extend(endpoint.ports.into_iter().map(holder));
            }
        }
        Ok(published)
    }

    /// Takes an endpoint out of the kernel, then its record. The lease is kept, to be given back when its ports are free.
    /// After an error both are there, and this can be done again.
    pub(crate) fn detach(&self, record: &EndpointRecord, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        let hit = |point| failpoint::hit(point).map_err(Error::io(|| "disconnect a container"));
        let network = self.read_record(&record.network)?.ok_or_else(|| {
            Error::no_such(
                "network",
                format!(
                    "{}: its record is gone; 'mica network check --repair' removes what is left of it",
                    record.network
                ),
            )
        })?;
        let doing = || format!("disconnect container '{}' from network '{}'", record.name, network.name());
        let driver = self.driver(&network.driver)?;
        hit("network.detaching")?;
        driver
            .detach(&network.network, &record.endpoint, record.attachment.as_ref(), namespace)
            .map_err(Error::doing(doing))?;
        hit("network.detached")?;
        self.forget_endpoint(&record.network, &record.container)?;
        hit("network.forgotten")
    }

    /// Gives back the addresses of an endpoint that has no record any more.
    pub(crate) fn give_back(&self, record: &EndpointRecord) -> Result<()> {
        self.leases()?.give_back(&record.network, &record.endpoint.id)?;
        failpoint::hit("network.released").map_err(Error::io(|| "disconnect a container"))
    }

    /// Takes away all that a container has which nobody looks after any more, and if it was `killed` also what it leased and did
    /// not get to record. The caller holds the container. Goes on after a failure, and answers them all.
    pub(crate) fn release(&self, container: &str, killed: bool) -> Result<()> {
        let mut failures = Vec::new();
        for record in self.endpoints_of(container)? {
            let released = self.detach(&record, None).and_then(|()| self.give_back(&record));
            failures.extend(released.err());
        }
        // It may have been about to be connected to one that is not among its own yet.
        let networks = if killed { self.records()?.found } else { Vec::new() };
        for NetworkRecord { network, .. } in networks {
            failures.extend(self.sweep_leases(&network.id).err());
            failures.extend(self.forget_unwritten(&network.id, container).err());
        }
        all(failures)
    }
}

/// One error of many.
pub(crate) fn all(mut failures: Vec<Error>) -> Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => {
            let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
            Err(Error::Invalid(text.join("; ")))
        }
    }
}

fn read(path: &Path) -> Result<Option<EndpointRecord>> {
    let Some(text) = root::read_optional(path, MAX_RECORD)? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| Error::damaged(format!("endpoint record '{}'", path.display()), e))
}
