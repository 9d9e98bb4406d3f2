//! What a runtime wishes for one container: what it puts into `runtimeConfig`, and the older ways of saying it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mica_core::network::{Address, Mac, PortRange, Protocol, Publish};
use mica_names::HostName;
use serde::Deserialize;

use super::call::{Call, argument};
use super::config::{Dns, Fields};
use super::refusal::Refusal;

/// What is wished for of an endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointWishes {
    /// The addresses that it is to have.
    pub(super) addresses: Vec<IpAddr>,
    /// The hardware address that it is to have.
    pub(super) mac: Option<Mac>,
    /// What the container is called, where that is told: kubelets and podman do.
    pub(super) name: Option<String>,
    /// What else the container is called.
    pub(super) aliases: Vec<String>,
    /// What is published of it.
    pub(super) publish: Vec<Publish>,
    dns: Option<RuntimeDns>,
}

/// What a runtime adds for one call, each in answer to a capability that the configuration claims.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Option<Vec<PortMapping>>,
    ips: Option<Vec<String>>,
    mac: Option<Mac>,
    aliases: Option<Aliases>,
    dns: Option<RuntimeDns>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    host_port: u16,
    container_port: u16,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// For this network, or for each by its name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Aliases {
    Here(Vec<String>),
    ByNetwork(BTreeMap<String, Vec<String>>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeDns {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// What else a runtime may add, whether anybody heeds it or not.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Arguments {
    cni: ArgumentsOfCni,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgumentsOfCni {
    ips: Option<Vec<String>>,
}

impl EndpointWishes {
    /// What is wished for in the network of this name.
    pub(super) fn read(fields: &mut Fields, call: &Call, network: &str) -> Result<Self, Refusal> {
        let runtime: RuntimeConfig = fields.take("runtimeConfig")?.unwrap_or_default();
        let structured: Arguments = fields.take("args")?.unwrap_or_default();
        let Call::Add { arguments, .. } = call else { return Ok(Self::default()) };
        let flat = || argument(arguments, "IP").map(|ips| ips.split(',').map(str::to_owned).collect());
        let ips: Vec<String> = runtime.ips.or(structured.cni.ips).or_else(flat).unwrap_or_default();
        let mac = argument(arguments, "MAC").map(str::parse).transpose();
        let mac = mac.map_err(|why| Refusal::variable("CNI_ARGS", why))?;
        let publish = runtime.port_mappings.unwrap_or_default();
        Ok(Self {
            addresses: ips.iter().map(|ip| address(ip)).collect::<Result<_, _>>()?,
            mac: runtime.mac.or(mac),
            name: argument(arguments, "K8S_POD_NAME").filter(|name| is_name(name)).map(str::to_owned),
            aliases: runtime.aliases.map_or_else(|| Ok(Vec::new()), |aliases| aliases.of(network))?,
            publish: publish.iter().map(PortMapping::publish).collect::<Result<_, _>>()?,
            dns: runtime.dns,
        })
    }

    /// What the runtime says of names holds before what is configured.
    pub(super) fn resolvers(&mut self, dns: &mut Dns) {
        if let Some(RuntimeDns { servers, searches, options }) = self.dns.take() {
            *dns = Dns { nameservers: servers, search: searches, options, ..Dns::default() };
        }
    }
}

impl PortMapping {
    fn publish(&self) -> Result<Publish, Refusal> {
        let refuse = |why: &dyn std::fmt::Display| {
            let (host, container) = (self.host_port, self.container_port);
            Refusal::config(format!(
                "'portMappings' with hostPort {host} and containerPort {container}: {why}"
            ))
        };
        let protocol = match self.protocol.as_str() {
            "" => Protocol::Tcp,
            name => name.parse().map_err(|why| refuse(&why))?,
        };
        let address: Option<IpAddr> = match self.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| refuse(&format!("hostIP '{}' is no address", text.escape_debug())))?,
            ),
        };
        if address.is_some_and(|address| address.is_ipv6() && address.is_loopback()) {
            return Err(refuse(&"nothing in the kernel leads from ::1 to a container; take 127.0.0.1"));
        }
        let ports =
            PortRange::one(self.host_port).and_then(|host| Ok((host, PortRange::one(self.container_port)?)));
        let (host, container) = ports.map_err(|why| refuse(&why))?;
        Publish::new(protocol, address, Some(host), container).map_err(|why| refuse(&why))
    }
}

impl Aliases {
    fn of(self, network: &str) -> Result<Vec<String>, Refusal> {
        let names: Vec<String> = match self {
            Self::Here(names) => names,
            Self::ByNetwork(mut named) => named.remove(network).unwrap_or_default(),
        };
        match names.iter().find(|name| !is_name(name)) {
            Some(name) => {
                Err(Refusal::config(format!("'aliases': '{}' is no host's name", name.escape_debug())))
            }
            None => Ok(names),
        }
    }
}

fn is_name(text: &str) -> bool {
    text.parse::<HostName>().is_ok()
}

/// An address, with or without a prefix: that of the network holds.
fn address(text: &str) -> Result<IpAddr, Refusal> {
    let bare = text.parse().ok();
    bare.or_else(|| text.parse::<Address>().ok().map(Address::ip)).ok_or_else(|| {
        Refusal::config(format!("'ips': '{}' is no address; write one as 10.1.0.9", text.escape_debug()))
    })
}
