//! Mending what somebody took from endpoints that stand, as when all rules of the host were flushed.

use mica_core::network::Attachment;

use super::Sandbox;
use crate::networks::EndpointRecord;
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
    pub(super) fn mend_all(&mut self, driver: &str) {
        let standing: Vec<_> = self.members.iter().map(|(network, _)| network.network.id).collect();
        let others = self.networks.mend_others(driver, &standing, self.container.id());
        let failures = others.err().into_iter().chain(self.mend().err());
        self.notes.extend(failures.map(|error| error.to_string()));
    }
}
