//! What a container is asked to be connected to, and what it is called there.

use std::collections::HashSet;
use std::net::IpAddr;

use mica_core::OptionMap;
use mica_core::network::{InterfaceName, Mac, NetworkId, Publish};
use serde::{Deserialize, Serialize};

/// What a container sees of networks, whatever it is connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Networking {
    /// Whose network namespace it is in.
    pub mode: NetworkMode,
    /// What is published of it.
    pub publish: Vec<Publish>,
    /// All ports that it exposes are published, each at any free port of the host.
    pub publish_all: bool,
    /// The ports that it says that it listens on: the image's, and those of `--expose`.
    pub exposed: Vec<Publish>,
    /// Servers of names, in place of the host's.
    pub servers: Vec<String>,
    /// Domains in which names are looked up, in place of the host's.
    pub search: Vec<String>,
    /// Options of its resolver, in place of the host's.
    pub resolver_options: Vec<String>,
    /// Names with their addresses, `NAME:ADDRESS`.
    pub extra_hosts: Vec<String>,
}

impl Networking {
    /// What is to be published: what was asked for, and with `-P` every other port that the container exposes.
    pub(crate) fn published(&self) -> Vec<Publish> {
        let mut published = self.publish.clone();
        if self.publish_all {
            let port = |one: &Publish| (one.protocol(), one.container().first(), one.container().last());
            let said: HashSet<_> = published.iter().map(port).collect();
            published.extend(self.exposed.iter().filter(|one| !said.contains(&port(one))));
        }
        published
    }
}

/// Whose network namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Its own, with nothing but `lo`.
    #[default]
    None,
    /// The host's.
    Host,
    /// That of the container of this id.
    Container(String),
    /// Its own, with an interface for each of its [connections](Connection).
    Connected,
}

/// What is wished for in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectWish {
    /// What else it is called there.
    pub aliases: Vec<String>,
    /// The addresses that it is to have, at most one a family; where there is none it gets the next one.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its link alone, beside those.
    pub link_local: Vec<IpAddr>,
    /// The hardware address that it is to have.
    pub mac: Option<Mac>,
    /// The network with the highest one is the gateway.
    pub priority: i32,
    /// What the interface inside is to be called.
    pub interface: Option<InterfaceName>,
    /// The driver's own options.
    pub options: OptionMap,
}

/// A network that a container is connected to whenever it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The network.
    pub network: NetworkId,
    /// What the network was called then.
    pub name: String,
    /// What was wished for.
    pub wish: ConnectWish,
}
