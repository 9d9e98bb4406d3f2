//! `ADD`: a container is connected.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use mica_core::network::{Addressing, Endpoint, EndpointId, Families, Port};
use mica_core::{OptionMap, failpoint};

use super::call::Place;
use super::config::Config;
use super::refusal::{Code, Refusal};
use crate::intent::random_id;
use crate::networks::{EndpointRecord, NetworkRecord, Networks, Outside};
use crate::ports::Reserved;
use crate::{Error, Result};

/// Connects a container, and leaves nothing when that fails. What of the host was changed on the way is noted.
pub(super) fn add(
    networks: &Networks,
    config: &Config,
    place: &Place,
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<(NetworkRecord, EndpointRecord), Refusal> {
    let opened = Outside::open(path).map_err(|error| Refusal::variable("CNI_NETNS", error));
    let (namespace, outside) = opened?;
    let _turn = networks.turn_at(&place.key())?;
    let network = networks.ensure(config.network())?;
    config.check_agrees(&network)?;
    clear(networks, &network, place, &outside)?;
    let record = record(networks, &network, config, place, outside)?;
    match connect(networks, &network, record.clone(), &namespace, notes) {
        Ok(record) => Ok((network, record)),
        Err(error) => {
            let mut refusal = Refusal::from(error);
            if let Err(left) = networks.take_away(&record, Some(namespace.as_fd())) {
                refusal.text.push_str(&format!("; {left}"));
            }
            Err(refusal)
        }
    }
}

/// Takes away what an `ADD` left that was killed, or that was in another namespace. What is connected stays.
fn clear(networks: &Networks, network: &NetworkRecord, place: &Place, now: &Outside) -> Result<(), Refusal> {
    let Some(record) = networks.endpoint(&network.network.id, &place.key())? else { return Ok(()) };
    let namespace = record.outside.as_ref().and_then(Outside::reopen);
    if record.attachment.is_some() && namespace.is_some() && record.outside.as_ref() == Some(now) {
        return Err(Refusal::new(
            Code::Taken,
            format!(
                "container '{}' is connected to network '{}' by '{}' already; DEL comes before another ADD",
                place.container,
                network.name(),
                place.interface
            ),
        ));
    }
    Ok(networks.take_away(&record, namespace.as_ref().map(AsFd::as_fd))?)
}

/// Records the endpoint, with addresses that are leased and ports that nobody else has: from here on a crash can be mended.
fn record(
    networks: &Networks,
    network: &NetworkRecord,
    config: &Config,
    place: &Place,
    outside: Outside,
) -> Result<EndpointRecord> {
    let id: EndpointId = random_id()?.parse()?;
    let wishes = &config.wishes;
    let gateway = if config.is_default_gateway { network.network.routes } else { Families::NONE };
    let reserved = with_room(networks, || reserve(networks, network, config, gateway))?;
    let lease = match networks.driver(&network.driver)?.capabilities().addressing {
        Addressing::Engine => {
            let promised = networks.promised(&network.network.id)?;
            let take = || networks.lease(network, id, &wishes.addresses, &promised);
            Some(with_room(networks, take)?)
        }
        _ => None,
    };
    let addresses = lease.as_ref().map_or_else(|| wishes.addresses.clone(), |lease| lease.addresses.clone());
    let endpoint = Endpoint {
        id,
        interface: place.interface.clone(),
        addresses,
        mac: wishes.mac,
        gateway,
        ports: reserved.ports().to_vec(),
        options: OptionMap::new(),
    };
    let record = EndpointRecord {
        network: network.network.id,
        container: place.key(),
        name: wishes.name.clone().unwrap_or_else(|| place.container.clone()),
        aliases: wishes.aliases.clone(),
        hostname: String::new(),
        endpoint,
        loopback6: Vec::new(),
        attachment: None,
        outside: Some(outside),
    };
    match networks.record_endpoint(&record) {
        Ok(()) => Ok(record),
        Err(error) => {
            networks.leases()?.give_back(&network.network.id, &id)?;
            Err(error)
        }
    }
}

fn connect(
    networks: &Networks,
    network: &NetworkRecord,
    record: EndpointRecord,
    namespace: &File,
    notes: &mut Vec<String>,
) -> Result<EndpointRecord> {
    let hit = |point| failpoint::hit(point).map_err(Error::io(|| "connect a container"));
    hit("cni.recorded")?;
    let raised = networks.up(network)?;
    notes.extend(raised.host.iter().map(ToString::to_string));
    if raised.rebuilt {
        networks.mend_others(&network.driver, &[network.network.id], &record.container)?;
    }
    hit("cni.up")?;
    let driver = networks.driver(&network.driver)?;
    let attachment = driver.attach(&network.network, &record.endpoint, namespace.as_fd())?;
    hit("cni.attached")?;
    let record = EndpointRecord { attachment: Some(attachment), ..record };
    networks.write_endpoint(&record)?;
    Ok(record)
}

/// Tries once more where what is in the way may be a killed container's, at which no command has looked since.
fn with_room<T>(networks: &Networks, take: impl Fn() -> Result<T>) -> Result<T> {
    match take() {
        Err(_) if networks.release_abandoned()? => take(),
        taken => taken,
    }
}

/// The ports of the host, which nobody else has until the endpoint is recorded.
///
/// No process holds the ports of an endpoint outside. They are bound here until its record is there: so of two who want the
/// same one finds the other's socket or its record.
fn reserve(
    networks: &Networks,
    network: &NetworkRecord,
    config: &Config,
    gateway: Families,
) -> Result<Reserved> {
    if config.wishes.publish.is_empty() {
        return Ok(Reserved::default());
    }
    if gateway == Families::NONE {
        return Err(Error::Invalid(format!(
            "'portMappings': network '{}' is not the container's gateway, so nothing leads to its ports here; \
             leave them out",
            config.name
        )));
    }
    let holder = |published: &[(Port, String)], port: &Port| {
        published.iter().find(|(other, _)| other.overlaps(port)).map(|(_, holder)| holder.clone())
    };
    let before = networks.published(None)?;
    let who = |port: &Port| holder(&before, port);
    let at = network.binding(gateway);
    let publish: Vec<_> = config.wishes.publish.iter().map(|one| one.or_at(at)).collect();
    let reserved = Reserved::reserve(&publish, gateway, &who)?;
    // Looked at again when all are bound: while they were, one may have been recorded by another, and let go.
    let now = networks.published(None)?;
    match reserved.ports().iter().find_map(|port| Some((port, holder(&now, port)?))) {
        Some((port, by)) => {
            Err(Error::from(mica_core::Error::InUse { what: format!("port {port} of the host"), by }))
        }
        None => Ok(reserved),
    }
}
