//! Which networks a container is connected to whenever it runs: `networks.json` in its directory, replaced whole by whoever
//! holds the container.

use std::fs;
use std::path::{Path, PathBuf};

use mica_core::durable;

use super::reach::{Purpose, Reached};
use super::{ConnectWish, Connection, Container, NetworkMode, Networking};
use crate::networks::{Elected, EndpointRecord, Networks, promises};
use crate::supervisor::already_connected;
use crate::supervisor::wire::{Answer, Message, Request};
use crate::{Engine, Error, Result, Root, root};

/// The longest list that is read, in bytes.
const MAX_CONNECTIONS: u64 = 1 << 20;

impl Container {
    /// What it is connected to, in the order of its interfaces.
    pub(crate) fn connections(&self) -> Result<Vec<Connection>> {
        read(self.dir())
    }

    /// Replaces what it is connected to, which the caller holds. It is on disk when this returns.
    pub(crate) fn set_connections(&self, root: &Root, connections: &[Connection]) -> Result<()> {
        let path = path(self.dir());
        let failed = || format!("write '{}'", path.display());
        let text = serde_json::to_vec(connections).map_err(|e| Error::io(failed)(e.into()))?;
        let lock = promises::promises(connections).then(|| root.lock()).transpose()?;
        lock.as_ref().map_or(Ok(()), |lock| promises::announce(root, lock, self.id(), connections))?;
        durable::write(&path, &text).map_err(Error::io(failed))
    }
}

impl Engine {
    /// The networks that a container is connected to whenever it runs, in the order of its interfaces, each with what stands of
    /// it now.
    pub fn connections(&self, container: &Container) -> Result<Vec<(Connection, Option<EndpointRecord>)>> {
        let connections = container.connections()?;
        if connections.is_empty() {
            return Ok(Vec::new());
        }
        let networks = self.networks();
        let with_endpoint = |connection: Connection| {
            let endpoint = networks.endpoint(&connection.network, container.id())?;
            Ok((connection, endpoint))
        };
        connections.into_iter().map(with_endpoint).collect()
    }

    /// Which ports that a container asks for none of its networks publishes, for people: nothing where all are.
    pub fn unpublished(&self, container: &Container) -> Result<Vec<String>> {
        let networking = &container.record().settings.networking;
        if networking.mode != NetworkMode::Connected || networking.published().is_empty() {
            return Ok(Vec::new());
        }
        let (connections, networks) = (container.connections()?, self.networks());
        let record = |connection: &Connection| match networks.of_id(&connection.network, &connection.name) {
            // One that was removed.
            Err(Error::NoSuch { .. }) => None,
            found => Some(found),
        };
        let records = connections.iter().filter_map(record).collect::<Result<Vec<_>>>()?;
        let records: Vec<_> = records.iter().collect();
        networks.unpublished(networking, &Elected::among(&records, &connections), &records)
    }

    /// Connects a container to one more network, now if it runs, and whenever it is started. Answers what was changed on the
    /// host for it, and what of its ports is not published.
    pub fn connect(&self, container: &Container, network: &str, wish: ConnectWish) -> Result<Vec<String>> {
        refuse_other_modes(container)?;
        let connection = connection(&self.networks(), network, wish)?;
        match self.reach(container, Purpose::Change("being connected"), None)? {
            Reached::Live(supervisor, _) => {
                container.send(&supervisor, &Request::Connect(Box::new(connection)), &[])?;
                match container.next(&supervisor)? {
                    Some(Message::Answer(Answer::Connected { notes }, _)) => {
                        Ok([notes, self.unpublished(container)?].concat())
                    }
                    _ => Err(container.not_running()),
                }
            }
            Reached::Idle(_busy) => {
                let mut connections = container.connections()?;
                if connections.iter().any(|other| other.network == connection.network) {
                    return Err(already_connected(container.name(), &connection.name));
                }
                connections.push(connection);
                container.set_connections(self.root(), &connections)?;
                self.unpublished(container)
            }
        }
    }

    /// Disconnects a container from a network, now if it runs, and for good. With `force` also where something of it stays behind
    /// that cannot be taken away. Answers what of its ports is not published.
    pub fn disconnect(&self, container: &Container, network: &str, force: bool) -> Result<Vec<String>> {
        refuse_other_modes(container)?;
        let reached = self.reach(container, Purpose::Change("being disconnected"), None)?;
        let mut connections = container.connections()?;
        let index = place(&connections, network).ok_or_else(|| {
            Error::Conflict(format!("container {} is not connected to network {network}", container.name()))
        })?;
        match reached {
            Reached::Live(supervisor, _) => {
                let network = connections[index].network;
                container.ask_over(&supervisor, &Request::Disconnect { network, force })?;
            }
            Reached::Idle(_busy) => {
                connections.remove(index);
                container.set_connections(self.root(), &connections)?;
            }
        }
        self.unpublished(container)
    }

    /// What a container that is to be made will be connected to. The default network is made now, if it was not before.
    pub(super) fn resolve(
        &self,
        networking: &Networking,
        wanted: &[(String, ConnectWish)],
    ) -> Result<Vec<Connection>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        if networking.mode != NetworkMode::Connected {
            return Err(refuse_mode(&networking.mode));
        }
        let networks = self.networks();
        let mut connections: Vec<Connection> = Vec::new();
        for (name, wish) in wanted {
            let connection = connection(&networks, name, wish.clone())?;
            if connections.iter().any(|other| other.network == connection.network) {
                return Err(Error::Invalid(format!("network {} is named twice", connection.name)));
            }
            connections.push(connection);
        }
        Ok(connections)
    }
}

/// Which of them is the network of this name, id or beginning of an id. The network may have been removed.
fn place(connections: &[Connection], network: &str) -> Option<usize> {
    let named = connections.iter().position(|connection| connection.name == network);
    let begins =
        |connection: &Connection| !network.is_empty() && connection.network.to_string().starts_with(network);
    named.or_else(|| connections.iter().position(begins))
}

fn refuse_other_modes(container: &Container) -> Result<()> {
    match &container.record().settings.networking.mode {
        NetworkMode::Connected => Ok(()),
        other => Err(refuse_mode(other)),
    }
}

/// A connection to the network of this name, as it is recorded.
pub(super) fn connection(networks: &Networks, name: &str, wish: ConnectWish) -> Result<Connection> {
    let network = networks.get(name)?;
    network.refuse_wish(&wish)?;
    Ok(Connection { network: network.network.id, name: network.name().to_owned(), wish })
}

/// Why a container of this mode is connected to no network.
pub(super) fn refuse_mode(mode: &NetworkMode) -> Error {
    Error::Invalid(match mode {
        NetworkMode::None => {
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
                .to_owned()
        }
        NetworkMode::Host => {
            "container cannot be disconnected from host network or connected to another network".to_owned()
        }
        NetworkMode::Container(_) => {
            "container sharing network namespace with another container cannot be connected to any other network"
                .to_owned()
        }
        NetworkMode::Connected => "the container is connected to networks".to_owned(),
    })
}

/// Writes the first ones of a container that is being made.
pub(super) fn write_new(dir: &Path, connections: &[Connection]) -> Result<()> {
    let path = path(dir);
    let failed = || format!("write '{}'", path.display());
    let text = serde_json::to_vec(connections).map_err(|e| Error::io(failed)(e.into()))?;
    fs::write(&path, text).map_err(Error::io(failed))
}

/// Those of the container in `dir`; one that was made before there were any has none.
pub(crate) fn read(dir: &Path) -> Result<Vec<Connection>> {
    let path = path(dir);
    let Some(text) = root::read_optional(&path, MAX_CONNECTIONS)? else { return Ok(Vec::new()) };
    serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("'{}'", path.display()), e))
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("networks.json")
}
