//! What a container has of networks while it runs: the namespace, its place in each network, and what is held for these on
//! the host.
//!
//! Every step up is recorded before the kernel is told, and every step down after it was. A supervisor that is killed
//! between two of them leaves records from which the next command takes away what stands.

pub(crate) mod live;
mod mend;
mod publish;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use mica_core::failpoint;
use mica_core::network::{Addressing, Endpoint, EndpointId, Families, InterfaceName};
use mica_net::ipam::Lease;

use self::publish::Publishing;
use super::names::{Member, Names};
use crate::container::{ConnectWish, Connection, Container, NetworkMode};
use crate::intent::random_id;
use crate::networks::{self, Elected, EndpointRecord, NetworkRecord, Networks, all};
use crate::ports::{Relay, Reserved};
use crate::supervisor::wire::Request;
use crate::{Engine, Error, Result, sys};

/// A container's part of networks, as far as it stands.
#[derive(Debug)]
pub(crate) struct Sandbox<'e> {
    engine: &'e Engine,
    container: &'e Container,
    /// What it is called, which can change.
    name: String,
    networks: Networks,
    /// Its own, or another container's; `None` where the runtime makes it, and for the host's.
    namespace: Option<OwnedFd>,
    connections: Vec<Connection>,
    /// Where it is, in the order of its interfaces. One is here as soon as it is recorded.
    members: Vec<Member>,
    names: Option<Names>,
    /// How its ports are published, and kept on the host.
    publishing: Publishing,
    ports: Reserved,
    relay: Option<Relay>,
    notes: Vec<String>,
}

impl<'e> Sandbox<'e> {
    pub(crate) fn new(engine: &'e Engine, container: &'e Container) -> Result<Self> {
        let (connections, networks) = (container.connections()?, engine.networks());
        Ok(Self {
            engine,
            container,
            name: container.name().to_owned(),
            networks,
            namespace: None,
            connections,
            members: Vec::new(),
            names: None,
            publishing: Publishing::default(),
            ports: Reserved::default(),
            relay: None,
            notes: Vec::new(),
        })
    }

    /// Makes all of it stand. After an error it is to be taken down.
    pub(crate) fn set_up(&mut self) -> Result<()> {
        match &self.container.record().settings.networking.mode {
            NetworkMode::None | NetworkMode::Host => {}
            NetworkMode::Container(other) => self.namespace = Some(self.namespace_of(other)?),
            NetworkMode::Connected => self.connect_all().or_else(|error| self.connect_anew(error))?,
        }
        let is_own = matches!(self.container.record().settings.networking.mode, NetworkMode::Connected);
        let namespace = self.namespace.as_ref().filter(|_| is_own).map(AsFd::as_fd);
        let names = Names::start(&self.networks, self.container, namespace, &self.members)?;
        self.notes.extend(names.note());
        self.names = Some(names);
        hit("network.named")
    }

    /// What the container joins.
    pub(crate) fn namespace(&self) -> Option<PathBuf> {
        let namespace = self.namespace.as_ref()?;
        // Another runtime opens it, too.
        Some(format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()).into())
    }

    /// Where the container's files of `/etc` are: with whoever has the namespace.
    pub(crate) fn etc(&self) -> Result<PathBuf> {
        let mut container = self.container.clone();
        while let NetworkMode::Container(other) = &container.record().settings.networking.mode {
            container = self.engine.container(other)?;
        }
        Ok(container.dir().to_owned())
    }

    /// The limit of open files that this process had, where the ports took a higher one.
    pub(crate) fn limit_was(&self) -> Option<u64> {
        self.ports.limit_was()
    }

    /// What is to be told of how it was set up.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Undoes all of it in reverse, goes on whatever fails, and answers what did.
    pub(crate) fn take_down(&mut self) -> Vec<Error> {
        // The namespace goes first, and the links with it; to delete one alone takes a grace period of the kernel.
        self.names = None;
        self.namespace = None;
        self.relay = None;
        let mut failures = Vec::new();
        let mut detached = Vec::new();
        for (_, record) in std::mem::take(&mut self.members).into_iter().rev() {
            match self.networks.detach(&record, None) {
                Ok(()) => detached.push(record),
                Err(error) => failures.push(error),
            }
        }
        self.ports = Reserved::default();
        failures.extend(detached.iter().filter_map(|record| self.networks.give_back(record).err()));
        failures
    }

    /// The namespace of a container that runs.
    fn namespace_of(&self, other: &str) -> Result<OwnedFd> {
        let joined =
            self.engine.container(other).map_err(Error::doing(|| "join another container's network"))?;
        let handed = joined.ask(&Request::Namespace).map_err(|error| match error {
            Error::Conflict(_) => Error::Conflict(format!(
                "cannot join network namespace of container {}: it is not running; start it first",
                joined.name()
            )),
            other => other,
        })?;
        handed.into_iter().next().ok_or_else(|| joined.not_running())
    }

    fn connect_all(&mut self) -> Result<()> {
        // What an earlier run of the container could not take away.
        self.networks.release(self.container.id(), false)?;
        let namespace = sys::network_namespace()
            .map_err(Error::io(|| "make a network namespace, which takes CAP_SYS_ADMIN and CAP_NET_ADMIN"))?;
        self.namespace = Some(namespace);
        hit("network.namespace")?;
        let record = |connection: &Connection| self.networks.of_id(&connection.network, &connection.name);
        let networks: Vec<NetworkRecord> = self.connections.iter().map(record).collect::<Result<_>>()?;
        let all: Vec<&NetworkRecord> = networks.iter().collect();
        let elected = Elected::among(&all, &self.connections);
        let networking = &self.container.record().settings.networking;
        let unpublished = self.networks.unpublished(networking, &elected, &all)?;
        self.notes.retain(|note| !unpublished.contains(note));
        self.notes.extend(unpublished);
        self.publish(self.publishing(&elected, &all)?)?;
        hit("network.reserved")?;
        for (network, connection) in networks.into_iter().zip(self.connections.clone()) {
            let gateway = elected.of(&network.network.id);
            self.attach(network, &connection.wish, gateway)?;
        }
        self.relay = Relay::new(&self.ports, &self.gateway_addresses())?;
        Ok(())
    }

    /// Once more, if the default network could not stand where it was planned.
    fn connect_anew(&mut self, error: Error) -> Result<()> {
        let is_default = |connection: &Connection| connection.name == networks::DEFAULT;
        if !is_in_the_way(&error) || !self.connections.iter().any(is_default) {
            return Err(error);
        }
        self.publishing = Publishing::default();
        match all(self.take_down()).and_then(|()| self.networks.move_default())? {
            Some(moved) => self.notes.push(moved),
            None => return Err(error),
        }
        self.connect_all()
    }

    /// Connects it to one more network. The last of the members is this one's from the moment at which it is recorded.
    fn attach(&mut self, network: NetworkRecord, wish: &ConnectWish, gateway: Families) -> Result<()> {
        let doing = format!("connect container '{}' to network '{}'", self.name, network.name());
        let doing = || doing;
        let attached = self.lease_and_record(&network, wish, gateway).and_then(|record| {
            self.members.push((network, record));
            self.bring_up()
        });
        attached.map_err(Error::doing(doing))
    }

    fn lease_and_record(
        &self,
        network: &NetworkRecord,
        wish: &ConnectWish,
        gateway: Families,
    ) -> Result<EndpointRecord> {
        let id: EndpointId = random_id()?.parse()?;
        let ports = self.ports_at(network, gateway)?;
        let lease = self.with_room(|sandbox| sandbox.lease(network, id, wish))?;
        let addresses = lease.as_ref().map_or(&wish.addresses, |lease| &lease.addresses);
        let endpoint = Endpoint {
            id,
            interface: wish.interface.clone().unwrap_or_else(|| self.free_interface()),
            addresses: addresses.iter().chain(&wish.link_local).copied().collect(),
            mac: wish.mac,
            gateway,
            ports,
            options: wish.options.clone(),
        };
        let record = EndpointRecord {
            network: network.network.id,
            container: self.container.id().to_owned(),
            name: self.name.clone(),
            aliases: wish.aliases.clone(),
            hostname: self.container.record().hostname(),
            endpoint,
            loopback6: self.loopback6_at(gateway),
            attachment: None,
            outside: None,
        };
        let recorded = hit("network.leased").and_then(|()| self.networks.record_endpoint(&record));
        if let Err(error) = recorded {
            self.networks.give_back(&record)?;
            return Err(error);
        }
        Ok(record)
    }

    /// Tries once more where what is in the way may be a killed container's, at which no command has looked since.
    fn with_room<T>(&self, take: impl Fn(&Self) -> Result<T>) -> Result<T> {
        match take(self) {
            Err(error) => {
                if self.networks.release_abandoned()? {
                    take(self)
                } else {
                    Err(error)
                }
            }
            taken => taken,
        }
    }

    /// `None` where addresses are not the engine's.
    fn lease(&self, network: &NetworkRecord, id: EndpointId, wish: &ConnectWish) -> Result<Option<Lease>> {
        let driver = self.networks.driver(&network.driver)?;
        if driver.capabilities().addressing != Addressing::Engine {
            return Ok(None);
        }
        let promised = self.networks.promised(&network.network.id)?;
        self.networks.lease(network, id, &wish.addresses, &promised).map(Some)
    }

    /// The first that no other member has.
    fn free_interface(&self) -> InterfaceName {
        let is_free =
            |name: &InterfaceName| self.members.iter().all(|(_, one)| one.endpoint.interface != *name);
        let mut names = (0..u16::MAX).map(InterfaceName::inner);
        names.find(is_free).unwrap_or_else(|| InterfaceName::inner(u16::MAX))
    }

    /// Has the last member stand in the kernel.
    fn bring_up(&mut self) -> Result<()> {
        hit("network.recorded")?;
        let Some((network, _)) = self.members.last() else { return Ok(()) };
        let driver = self.networks.driver(&network.driver)?;
        let raised = self.networks.up(network)?;
        self.notes.extend(raised.host.iter().map(ToString::to_string));
        if raised.rebuilt {
            self.mend_all(driver.name());
        }
        hit("network.up")?;
        let Self { networks, namespace: Some(namespace), members, .. } = self else { return Ok(()) };
        let Some((network, record)) = members.last_mut() else { return Ok(()) };
        let attachment = driver.attach(&network.network, &record.endpoint, namespace.as_fd())?;
        record.attachment = Some(attachment);
        hit("network.attached")?;
        networks.write_endpoint(record)?;
        hit("network.written")
    }

    /// What becomes readable when there is something to do.
    pub(crate) fn relay_fd(&self) -> Option<BorrowedFd<'_>> {
        self.relay.as_ref().map(Relay::as_fd)
    }

    /// Hands on what came to `::1`. An error ends that.
    pub(crate) fn relay(&mut self) -> Result<()> {
        let turned = self.relay.as_mut().map_or(Ok(()), Relay::turn);
        turned.inspect_err(|_| self.relay = None)
    }

    /// As [`relay_fd`](Self::relay_fd), of the container's names.
    pub(crate) fn names_fd(&self) -> Option<BorrowedFd<'_>> {
        self.names.as_ref().and_then(Names::as_fd)
    }

    /// Answers what was asked for by name.
    pub(crate) fn answer(&mut self) -> Result<()> {
        self.names.as_mut().map_or(Ok(()), |names| names.turn(&self.networks))
    }
}

fn is_in_the_way(error: &Error) -> bool {
    use mica_core::Error::{AlreadyExists, InUse};
    match error {
        Error::Storage(AlreadyExists { .. } | InUse { .. }) => true,
        Error::Doing { source, .. } => is_in_the_way(source),
        _ => false,
    }
}

fn hit(point: &str) -> Result<()> {
    failpoint::hit(point).map_err(Error::io(|| "connect a container"))
}
