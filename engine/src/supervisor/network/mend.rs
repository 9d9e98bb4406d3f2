//! Mending what somebody took from endpoints that stand, as when all rules of the host were flushed.

use mica_core::network::Attachment;

use super::Sandbox;
use crate::container::link;
use crate::networks::{EndpointRecord, NetworkRecord};
use crate::supervisor::wire::Request;
use crate::{Error, Result};

impl Sandbox<'_> {
    /// Has every endpoint of the container stand as it is recorded.
    pub(crate) fn mend(&mut self) -> Result<()> {
        let mut failures = Vec::new();
        for index in 0..self.members.len() {
            let (network, record) = self.members[index].clone();
            let is_attached = record.attachment.is_some();
            let is_live = self.networks.driver(&network.driver).map(|driver| driver.capabilities().live);
            match is_live {
                Ok(true) if is_attached => {
                    let mended = self.attach_again(index, &record).and_then(|attachment| {
                        self.members[index].1.attachment = Some(attachment);
                        self.networks.write_endpoint(&self.members[index].1)
                    });
                    failures.extend(mended.err());
                }
                Ok(_) => {}
                Err(error) => failures.push(error),
            }
        }
        crate::networks::all(failures)
    }

    /// Says what of its endpoints does not stand as it is recorded.
    pub(crate) fn check(&self) -> Result<()> {
        let mut failures = Vec::new();
        for (network, record) in &self.members {
            let Some(attachment) = &record.attachment else { continue };
            let checked = self.networks.driver(&network.driver).and_then(|driver| {
                Ok(driver.check(&network.network, &record.endpoint, attachment, self.inside()?)?)
            });
            failures.extend(checked.err());
        }
        crate::networks::all(failures)
    }

    /// Has a member stand as `record` says; what the driver answers.
    pub(super) fn attach_again(&self, index: usize, record: &EndpointRecord) -> Result<Attachment> {
        let (network, before) = &self.members[index];
        let driver = self.networks.driver(&network.driver)?;
        let (net, namespace) = (&network.network, self.inside()?);
        let Some(was) = &before.attachment else { return Err(self.container.not_running()) };
        if driver.capabilities().live {
            return Ok(driver.update(net, was, &record.endpoint, namespace)?);
        }
        driver.detach(net, &before.endpoint, Some(was), Some(namespace))?;
        driver.attach(net, &record.endpoint, namespace).map_err(|error| {
            // Back to what it was: the caller hears why it could not be changed.
            match driver.attach(net, &before.endpoint, namespace) {
                Ok(_) => error.into(),
                Err(failure) => Error::Invalid(format!("{error}; {failure}")),
            }
        })
    }

    /// After what endpoints share had to be made anew: all others of the same driver may have lost their part of it.
    pub(super) fn mend_if_rebuilt(&mut self) {
        if let Some(driver) = self.rebuilt.take() {
            let mended = self.mend_others(&driver).and_then(|()| self.mend());
            self.notes.extend(mended.err().map(|error| error.to_string()));
        }
    }

    fn mend_others(&self, driver: &str) -> Result<()> {
        let mut failures = Vec::new();
        for network in self.networks.all()?.found.iter().filter(|network| network.driver == driver) {
            failures.extend(self.mend_network(network).err());
        }
        crate::networks::all(failures)
    }

    /// Nobody is waited for: of two supervisors that wait for each other neither would answer.
    fn mend_network(&self, network: &NetworkRecord) -> Result<()> {
        let id = &network.network.id;
        let endpoints = self.networks.endpoints(id)?;
        let mut others = endpoints.iter().filter(|other| other.container != self.container.id()).peekable();
        if others.peek().is_none() {
            return Ok(());
        }
        let is_ours = self.members.iter().any(|(known, _)| known.network.id == *id);
        if !is_ours && !self.networks.up(network)?.rebuilt {
            return Ok(());
        }
        self.networks.mend_outside(network)?;
        for other in others.filter(|other| other.outside.is_none() && other.attachment.is_some()) {
            let dir = self.engine.root().containers().join(&other.container);
            link::post(&dir, &Request::Mend).map_err(Error::io(|| {
                format!("have container '{}' mend its place in network '{}'", other.name, network.name())
            }))?;
        }
        Ok(())
    }
}
