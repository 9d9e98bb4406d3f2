//! What a runtime is told of a container that was connected.

use std::net::IpAddr;

use mica_core::network::{Address, Family, Interface};
use serde_json::{Map, Value, json};

use super::config::{Config, Dns};
use super::version::Version;
use crate::networks::{EndpointRecord, NetworkRecord};

/// The result of an `ADD`, behind that of the plugin before it.
pub(super) fn success(
    version: Version,
    config: &Config,
    network: &NetworkRecord,
    record: &EndpointRecord,
) -> Value {
    let mut result = config.previous.clone().unwrap_or_default();
    result.insert("cniVersion".to_owned(), json!(version.to_string()));
    let attachment = record.attachment.clone().unwrap_or_default();
    let sandbox = record.outside.as_ref().map(|outside| outside.namespace.display().to_string());
    if let Some(inner) = &attachment.interface {
        let sandbox = sandbox.unwrap_or_default();
        let at = append(&mut result, "interfaces", vec![interface(version, inner, &sandbox)]);
        let ips = inner.addresses.iter().map(|address| ip(version, address, at, network));
        append(&mut result, "ips", ips.collect());
    }
    append(&mut result, "routes", attachment.gateways.iter().map(default_route).collect());
    let mut dns = config.dns.clone();
    dns.nameservers.extend(attachment.resolvers.iter().map(ToString::to_string));
    let dns = names(&dns);
    if !dns.is_empty() || !result.contains_key("dns") {
        result.insert("dns".to_owned(), dns.into());
    }
    result.into()
}

/// Adds to a list of the result, and answers where its new entries begin.
fn append(result: &mut Map<String, Value>, name: &str, new: Vec<Value>) -> usize {
    let mut entries = match result.remove(name) {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let at = entries.len();
    entries.extend(new);
    result.insert(name.to_owned(), entries.into());
    at
}

fn default_route(gateway: &IpAddr) -> Value {
    let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    json!({ "dst": all, "gw": gateway })
}

fn interface(version: Version, interface: &Interface, sandbox: &str) -> Value {
    let mut told = json!({
        "name": interface.name.as_str(),
        "mac": interface.mac.to_string(),
        "sandbox": sandbox,
    });
    if version >= Version::V1_1_0 {
        told["mtu"] = json!(interface.mtu);
    }
    told
}

fn ip(version: Version, address: &Address, interface: usize, network: &NetworkRecord) -> Value {
    let family = Family::of(address.ip());
    let mut told = json!({ "address": address.to_string(), "interface": interface });
    let pool = network.network.pools.iter().find(|pool| pool.subnet.contains(address.ip()));
    let gateway = pool.and_then(|pool| pool.gateway).filter(|_| network.network.routes.has(family));
    if let Some(gateway) = gateway {
        told["gateway"] = json!(gateway);
    }
    if version < Version::V1_0_0 {
        told["version"] = json!(if family == Family::V4 { "4" } else { "6" });
    }
    told
}

fn names(dns: &Dns) -> Map<String, Value> {
    let lists = [("nameservers", &dns.nameservers), ("search", &dns.search), ("options", &dns.options)];
    let told = lists.into_iter().filter(|(_, list)| !list.is_empty());
    let mut names: Map<_, _> = told.map(|(name, list)| (name.to_owned(), json!(list))).collect();
    if !dns.domain.is_empty() {
        names.insert("domain".to_owned(), json!(dns.domain));
    }
    names
}
