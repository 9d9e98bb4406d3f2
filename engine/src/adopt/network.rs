//! What an old container saw of networks, in words of ours.

use std::collections::BTreeMap;

use mica_core::network::Publish;
use serde::Deserialize;

use super::config::nullable;
use crate::container::{NetworkMode, Networking};
use crate::networks;

/// The part of `hostconfig.json` that is about networks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct OldNetwork {
    #[serde(deserialize_with = "nullable")]
    network_mode: String,
    #[serde(deserialize_with = "nullable")]
    port_bindings: BTreeMap<String, Option<Vec<Binding>>>,
    #[serde(deserialize_with = "nullable")]
    publish_all_ports: bool,
    #[serde(deserialize_with = "nullable")]
    dns: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    dns_options: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    dns_search: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    extra_hosts: Vec<String>,
}

/// Where on the host a port is published.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Binding {
    #[serde(rename = "HostIp", deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "HostPort", deserialize_with = "nullable")]
    port: String,
}

impl OldNetwork {
    /// The network that it was made for, by its name or id; `None` where it has none to itself.
    pub(super) fn connected(&self) -> Option<&str> {
        match self.network_mode.as_str() {
            "" | "default" => Some(networks::DEFAULT),
            networks::NONE | networks::HOST => None,
            name if name.starts_with("container:") => None,
            name => Some(name),
        }
    }

    /// As settings. What cannot be had is added to what is lost.
    pub(super) fn translate(self, lost: &mut Vec<String>) -> Networking {
        let mode = match self.network_mode.strip_prefix("container:") {
            Some(id) => NetworkMode::Container(id.to_owned()),
            None if self.network_mode == networks::NONE => NetworkMode::None,
            None if self.network_mode == networks::HOST => NetworkMode::Host,
            None => NetworkMode::Connected,
        };
        let mut networking = Networking { mode, ..Networking::default() };
        if networking.mode == NetworkMode::Connected {
            networking.publish_all = self.publish_all_ports;
            for (port, bindings) in &self.port_bindings {
                let bindings = bindings.as_deref().unwrap_or_default();
                match bindings.iter().map(|binding| published(port, binding)).collect::<Option<Vec<_>>>() {
                    Some(ports) => networking.publish.extend(ports),
                    None => lost.push(format!("the published port '{}'", crate::error::shown(port))),
                }
            }
        }
        if mica_names::Wishes::parse(&self.dns, &self.dns_search, &self.dns_options).is_ok() {
            networking.servers = self.dns;
            networking.search = self.dns_search;
            networking.resolver_options = self.dns_options;
        } else {
            lost.push("its own servers of names".to_owned());
        }
        for host in self.extra_hosts {
            match host.parse::<mica_names::ExtraHost>() {
                Ok(_) => networking.extra_hosts.push(host),
                Err(_) => lost.push(format!("the host '{}'", crate::error::shown(&host))),
            }
        }
        networking
    }
}

/// The port of the container is such as `80/tcp`; what is empty of a binding is left open.
fn published(port: &str, Binding { address, port: host }: &Binding) -> Option<Publish> {
    let at = match address.as_str() {
        "" => String::new(),
        six if six.contains(':') => format!("[{six}]:"),
        four => format!("{four}:"),
    };
    let host = if host.is_empty() && at.is_empty() { String::new() } else { format!("{host}:") };
    format!("{at}{host}{port}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(text: &str) -> (Option<String>, Networking, Vec<String>) {
        let old: OldNetwork = serde_json::from_str(text).unwrap();
        let mut lost = Vec::new();
        (old.connected().map(str::to_owned), old.translate(&mut lost), lost)
    }

    #[test]
    fn a_container_is_where_it_was() {
        for (mode, connected, expected) in [
            ("", Some("bridge"), NetworkMode::Connected),
            ("default", Some("bridge"), NetworkMode::Connected),
            ("web", Some("web"), NetworkMode::Connected),
            ("none", None, NetworkMode::None),
            ("host", None, NetworkMode::Host),
            ("container:0123", None, NetworkMode::Container("0123".to_owned())),
        ] {
            let (network, networking, _) = translate(&format!(r#"{{"NetworkMode":"{mode}"}}"#));
            assert_eq!((network.as_deref(), networking.mode), (connected, expected), "{mode}");
        }
    }

    #[test]
    fn ports_and_names_come_along_and_what_is_none_is_told() {
        let (_, networking, lost) = translate(
            r#"{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"},{"HostIp":"::1","HostPort":"8081"}],
                "53/udp":[{"HostIp":"127.0.0.1","HostPort":""}],"90/tcp":[{"HostPort":""}],"91/tcp":null,
                "x/tcp":[{"HostPort":"1"}]},"Dns":null,"ExtraHosts":["a:10.0.0.1","b"],"DnsSearch":["lan"]}"#,
        );
        let ports: Vec<String> = networking.publish.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["127.0.0.1::53/udp", "8080:80/tcp", "[::1]:8081:80/tcp", "90/tcp"]);
        assert_eq!(
            (networking.extra_hosts, networking.search),
            (vec!["a:10.0.0.1".into()], vec!["lan".into()])
        );
        assert_eq!(lost, ["the published port 'x/tcp'", "the host 'b'"]);
    }

    #[test]
    fn a_container_without_a_network_of_its_own_publishes_nothing() {
        let (_, networking, lost) =
            translate(r#"{"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostPort":"80"}]}}"#);
        assert!(networking.publish.is_empty() && lost.is_empty());
    }
}
