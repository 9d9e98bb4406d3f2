//! `CHECK` and `STATUS`: a look, and nothing is touched.

use std::os::fd::AsFd;
use std::path::Path;

use mica_core::network::Interface;
use serde_json::{Map, Value};

use super::call::Place;
use super::config::Config;
use super::refusal::{Code, Refusal};
use crate::networks::{Networks, Outside};

/// Whether the container is connected as its `ADD` answered.
pub(super) fn check(networks: &Networks, config: &Config, place: &Place, path: &Path) -> Result<(), Refusal> {
    let network = networks.recorded(&config.name)?;
    let record = match &network {
        Some(network) => networks.endpoint(&network.network.id, &place.key())?,
        None => None,
    };
    let connected = record.and_then(|record| Some((record.endpoint, record.attachment?, record.outside?)));
    let (Some(network), Some((endpoint, attachment, outside))) = (network, connected) else {
        return Err(Refusal::new(
            Code::Container,
            format!(
                "container '{}' is not connected to network '{}' by '{}'",
                place.container, config.name, place.interface
            ),
        ));
    };
    let previous = config.previous.as_ref();
    let previous = previous.ok_or_else(|| Refusal::config("CHECK needs 'prevResult', what ADD answered"))?;
    if let Some(interface) = &attachment.interface {
        check_told(previous, interface)?;
    }
    let (namespace, now) = Outside::open(path).map_err(|error| Refusal::variable("CNI_NETNS", error))?;
    if (now.device, now.inode) != (outside.device, outside.inode) {
        let text = format!("'{}' is not the namespace that was connected", path.display());
        return Err(Refusal::new(Code::Damaged, text));
    }
    let driver = networks.driver(&network.driver)?;
    Ok(driver.check(&network.network, &endpoint, &attachment, namespace.as_fd())?)
}

/// Whether the runtime was told of the interface and its addresses.
fn check_told(previous: &Map<String, Value>, interface: &Interface) -> Result<(), Refusal> {
    let told = |list: &str, field: &str, wanted: &str| {
        let entries = previous.get(list).and_then(Value::as_array);
        entries.is_some_and(|entries| {
            entries.iter().any(|entry| entry.get(field).and_then(Value::as_str) == Some(wanted))
        })
    };
    let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
    let missing = addresses.into_iter().filter(|address| !told("ips", "address", address));
    let name = Some(interface.name.to_string()).filter(|name| !told("interfaces", "name", name));
    let missing: Vec<String> = name.into_iter().chain(missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!("'prevResult' does not have what the container has: {}", missing.join(", "));
    Err(Refusal::new(Code::Damaged, text))
}

/// Whether containers can be connected.
pub(super) fn status(networks: &Networks, config: &Config) -> Result<(), Refusal> {
    match networks.recorded(&config.name)? {
        Some(network) => {
            config.check_agrees(&network)?;
            networks.driver(&network.driver)?;
        }
        None => networks.check_new(config.network())?,
    }
    Ok(())
}
