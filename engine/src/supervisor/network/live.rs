//! Networks that come and go while the container runs.

use std::os::fd::{AsFd, BorrowedFd};

use mica_core::network::{Families, NetworkId};

use super::{Sandbox, hit};
use crate::container::Connection;
use crate::networks::{Elected, NetworkRecord};
use crate::ports::Relay;
use crate::{Error, Result};

impl Sandbox<'_> {
    /// Connects the container to one more network, and records that. After an error it is connected to those of before. What
    /// is to be told comes back.
    pub(crate) fn connect(&mut self, connection: &Connection) -> Result<Vec<String>> {
        self.refuse_connected(connection)?;
        let network = self.networks.of_id(&connection.network, &connection.name)?;
        let (before, count) = (self.elected(), self.members.len());
        self.connections.push(connection.clone());
        let known: Vec<_> = self.members.iter().map(|(network, _)| network).chain([&network]).collect();
        let after = Elected::among(&known, &self.connections);
        let publishing = self.publishing(&after, &known);
        let connected = publishing.and_then(|publishing| self.publish(publishing)).and_then(|()| {
            // Who loses a default route does so first: there are never two.
            self.regate(&after)?;
            let gateway = after.of(&connection.network);
            self.attach(network, &connection.wish, gateway)?;
            self.show_change()?;
            self.container.set_connections(self.networks.root(), &self.connections)
        });
        match connected {
            Ok(()) => Ok(self.take_notes()),
            Err(error) => {
                self.connections.pop();
                Err(self.undo(error, count, &before))
            }
        }
    }

    /// Disconnects the container from a network, and records that. With `force` also where something of it stays behind. After
    /// an error it is still connected, or the others have not taken over all that the network did.
    pub(crate) fn disconnect(&mut self, network: &NetworkId, force: bool) -> Result<()> {
        let Some(index) = self.members.iter().position(|(known, _)| known.network.id == *network) else {
            return Err(Error::Conflict(format!(
                "container {} is not connected to network {network}",
                self.container.name()
            )));
        };
        let (_, record) = &self.members[index];
        match self.networks.detach(record, Some(self.inside()?)) {
            Err(error) if !force => return Err(error),
            Err(_) => self.networks.forget_endpoint(network, self.container.id())?,
            Ok(()) => {}
        }
        let (_, record) = self.members.remove(index);
        self.connections.retain(|connection| connection.network != *network);
        let after = self.elected();
        let rest = [
            self.networks.give_back(&record),
            self.publish_again(&after),
            self.regate(&after),
            self.show_change(),
            self.container.set_connections(self.networks.root(), &self.connections),
        ];
        crate::networks::all(rest.into_iter().filter_map(Result::err).collect())
    }

    /// Has the container be known by another name in its networks.
    pub(crate) fn rename(&mut self, name: String) -> Result<()> {
        self.name = name;
        for (_, record) in &mut self.members {
            record.name.clone_from(&self.name);
            self.networks.write_endpoint(record)?;
        }
        Ok(())
    }

    /// The gateways among those that stand.
    fn elected(&self) -> Elected {
        Elected::among(&self.standing(), &self.connections)
    }

    fn standing(&self) -> Vec<&NetworkRecord> {
        self.members.iter().map(|(network, _)| network).collect()
    }

    /// Keeps the ports if any of those that stand can still publish them.
    fn publish_again(&mut self, elected: &Elected) -> Result<()> {
        let publishing = self.publishing(elected, &self.standing())?;
        self.publish(publishing)
    }

    fn refuse_connected(&self, connection: &Connection) -> Result<()> {
        match self.connections.iter().any(|other| other.network == connection.network) {
            true => Err(already_connected(self.container.name(), &connection.name)),
            false => Ok(()),
        }
    }

    /// Has the gateways be these: those that lose it, then those that get it.
    fn regate(&mut self, elected: &Elected) -> Result<()> {
        for is_loss in [true, false] {
            for index in 0..self.members.len() {
                let (network, record) = &self.members[index];
                let (now, wanted) = (record.endpoint.gateway, elected.of(&network.network.id));
                let both = Families { v4: now.v4 && wanted.v4, v6: now.v6 && wanted.v6 };
                let next = if is_loss { both } else { wanted };
                if next != now || self.ports_at(network, next)? != record.endpoint.ports {
                    self.update(index, next)?;
                }
            }
        }
        Ok(())
    }

    /// Has a member be the gateway in these families. It is recorded before the kernel is told: who finds a record that differs
    /// from its attachment looks for both.
    fn update(&mut self, index: usize, gateway: Families) -> Result<()> {
        let (network, before) = &self.members[index];
        let mut record = before.clone();
        record.endpoint.gateway = gateway;
        record.endpoint.ports = self.ports_at(network, gateway)?;
        record.loopback6 = self.loopback6_at(gateway);
        self.networks.write_endpoint(&record)?;
        hit("network.updating")?;
        match self.attach_again(index, &record) {
            Ok(attachment) => record.attachment = Some(attachment),
            Err(error) => {
                self.networks.write_endpoint(before)?;
                return Err(error);
            }
        }
        self.members[index].1 = record;
        hit("network.updated")?;
        self.networks.write_endpoint(&self.members[index].1)
    }

    /// Brings names and the way from `::1` up to date.
    fn show_change(&mut self) -> Result<()> {
        let addresses = self.gateway_addresses();
        match &mut self.relay {
            Some(relay) => relay.lead_to(&addresses)?,
            None => self.relay = Relay::new(&self.ports, &addresses)?,
        }
        let Some(namespace) = &self.namespace else { return Ok(()) };
        let names = self.names.as_mut();
        names.map_or(Ok(()), |names| names.change(&self.networks, namespace.as_fd(), &self.members))
    }

    /// Takes away the members from `count` on, and has the others be as they were.
    fn undo(&mut self, error: Error, count: usize, before: &Elected) -> Error {
        let mut failures = vec![error];
        while self.members.len() > count {
            let Some((network, record)) = self.members.pop() else { break };
            let detached = self.inside().and_then(|namespace| self.networks.detach(&record, Some(namespace)));
            match detached.and_then(|()| self.networks.give_back(&record)) {
                Ok(()) => {}
                Err(failure) => {
                    failures.push(failure);
                    // It is tried again when the container ends.
                    self.members.insert(count, (network, record));
                    break;
                }
            }
        }
        failures.extend(self.publish_again(before).err());
        failures.extend(self.regate(before).err());
        failures.extend(self.show_change().err());
        crate::networks::all(failures).err().unwrap_or_else(|| self.container.not_running())
    }

    /// The namespace.
    pub(super) fn inside(&self) -> Result<BorrowedFd<'_>> {
        let namespace = self.namespace.as_ref().ok_or_else(|| self.container.not_running())?;
        Ok(namespace.as_fd())
    }
}

/// The container is connected to that network.
pub(crate) fn already_connected(container: &str, network: &str) -> Error {
    Error::Conflict(format!("endpoint with name {container} already exists in network {network}"))
}
