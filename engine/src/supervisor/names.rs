//! What a container knows by name while it runs: its files of `/etc`, and the name server in its network namespace.
//!
//! Nobody tells a supervisor that a container joined or left one of its networks. It looks when it is asked for a name: the
//! records of the endpoints are read anew if the directories that they are in have [changed](Seen) since.

mod seen;
mod view;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use mica_core::network::{Family, Interface};
use mica_names::{Responder, View};

use crate::container::etc::{self, Around, Files, Wished};
use crate::container::{Container, NetworkMode, Record};
use crate::networks::{EndpointRecord, NetworkRecord, Networks};
use crate::{Error, Result};
use seen::Seen;
use view::Circle;

/// A network that the container is connected to, and its place there.
pub(crate) type Member = (NetworkRecord, EndpointRecord);

/// The names of a container that runs. What is dropped ends together with the namespace.
#[derive(Debug)]
pub(crate) struct Names {
    record: Record,
    /// `None` where they are another container's.
    files: Option<Files>,
    server: Option<Server>,
}

/// A name server, and what it tells.
#[derive(Debug)]
struct Server {
    responder: Responder,
    circle: Circle,
    seen: Seen,
}

impl Names {
    /// Writes the files of a container that is about to start, and starts its name server in the namespace, if it is to have
    /// one. The members are attached, and in the order of their interfaces.
    pub(crate) fn start(
        networks: &Networks,
        container: &Container,
        namespace: Option<BorrowedFd<'_>>,
        members: &[Member],
    ) -> Result<Self> {
        let record = container.record().clone();
        let mut names = Self { record, files: None, server: None };
        if let NetworkMode::Container(_) = names.record.settings.networking.mode {
            return Ok(names);
        }
        names.serve(networks, namespace, members)?;
        let around = around(networks, members, names.server.is_some())?;
        names.files = Some(Files::write(container, &around)?);
        Ok(names)
    }

    /// Goes on with other members: the files are brought up to date, and there is a name server if there is to be one now. One
    /// that was there stays, because the container's programs have its address.
    pub(crate) fn change(
        &mut self,
        networks: &Networks,
        namespace: BorrowedFd<'_>,
        members: &[Member],
    ) -> Result<()> {
        self.serve(networks, Some(namespace), members)?;
        let around = around(networks, members, self.server.is_some())?;
        self.files.as_mut().map_or(Ok(()), |files| files.rewrite(&self.record, &around))
    }

    /// What the container cannot do because of its name server, for people.
    pub(crate) fn note(&self) -> Option<String> {
        let why = self.server.as_ref()?.responder.holds_port()?;
        let name = &self.record.name;
        Some(format!("container '{name}' cannot serve names itself, at port 53 of all its addresses: {why}"))
    }

    /// What becomes readable when there is something to do, if it ever does.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(|server| server.responder.as_fd())
    }

    /// Does what there is to do. After an error the names are those of before, or where [`as_fd`](Self::as_fd) is nothing any
    /// more there is no name server.
    pub(crate) fn turn(&mut self, networks: &Networks) -> Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let looked = server.look(networks);
        if let Err(error) = server.responder.turn() {
            self.server = None;
            return Err(Error::doing(|| "answer a container's queries for names")(error));
        }
        looked
    }

    fn serve(
        &mut self,
        networks: &Networks,
        namespace: Option<BorrowedFd<'_>>,
        members: &[Member],
    ) -> Result<()> {
        let Wished { resolver, .. } = Wished::of(&self.record.settings, &self.record.hostname())?;
        // A server that only the host reaches is asked by way of ours.
        let is_direct = || Ok::<_, Error>(etc::host_resolv()?.direct(&resolver).is_some());
        let has_names = members.iter().any(|(network, _)| !network.is_predefined());
        let is_needed = has_names || !members.is_empty() && !is_direct()?;
        let circle = Circle::new(members, resolver);
        match (&mut self.server, namespace) {
            (Some(server), _) => {
                server.circle = circle;
                server.seen = Seen::default();
                // The servers of before may be ones that must not be asked any more.
                server.look(networks).inspect_err(|_| server.responder.show(View::default()))
            }
            (None, Some(namespace)) if is_needed => {
                let (seen, view) = circle.view(networks)?;
                let responder = Responder::start(namespace, view)?;
                self.server = Some(Server { responder, circle, seen });
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.responder.leave();
        }
    }
}

impl Server {
    /// Has the names be those of now.
    fn look(&mut self, networks: &Networks) -> Result<()> {
        if self.seen.is_current() {
            return Ok(());
        }
        let (seen, view) = self.circle.view(networks)?;
        self.responder.show(view);
        self.seen = seen;
        Ok(())
    }
}

fn around(networks: &Networks, members: &[Member], responder: bool) -> Result<Around> {
    let addresses = members.iter().flat_map(|(network, endpoint)| addresses(network, endpoint)).collect();
    let mut host = Vec::new();
    for family in [Family::V4, Family::V6] {
        host.extend(host_address(networks, members, family)?);
    }
    Ok(Around { addresses, host, responder })
}

/// Where the container reaches the host: by way of its gateway, else through any network that stands behind the host.
fn host_address(networks: &Networks, members: &[Member], family: Family) -> Result<Option<IpAddr>> {
    let mut found = None;
    for (network, endpoint) in members {
        let gateways = network.network.pools.iter().filter_map(|pool| pool.gateway);
        let router = gateways.into_iter().find(|&gateway| Family::of(gateway) == family);
        let Some(router) = router else { continue };
        if !networks.driver(&network.driver)?.capabilities().shielded {
            continue;
        }
        if endpoint.endpoint.gateway.has(family) {
            return Ok(Some(router));
        }
        found = found.or(Some(router));
    }
    Ok(found)
}

/// The addresses under which an endpoint is known to others. Those that are of its link alone are not among them.
fn addresses(network: &NetworkRecord, endpoint: &EndpointRecord) -> Vec<IpAddr> {
    let is_of_link = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let is_of_pool = |address| network.network.pools.iter().any(|pool| pool.subnet.contains(address));
    let interface = endpoint.attachment.as_ref().and_then(|attachment| attachment.interface.as_ref());
    let addresses = interface.map(|Interface { addresses, .. }| addresses.iter().map(|address| address.ip()));
    addresses.into_iter().flatten().filter(|&address| is_of_pool(address) || !is_of_link(address)).collect()
}
