//! What a driver may leave behind in the host's kernel, and must not.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use mica_core::network::Subnet;

use super::kernel;
use super::stage::UPLINK;
use crate::outcome::{Doing, Stop, Verdict};

/// How long the kernel may take to finish a removal by itself.
const PATIENCE: Duration = Duration::from_secs(4);

/// Links, addresses, routes, tables of rules and settings of a namespace, each as a line for people. What the kernel gives to
/// a link by itself is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// What there is in the namespace of the calling thread.
    pub(crate) fn now() -> Verdict<Self> {
        let mut lines = Self::without_rules()?.lines;
        let tables = kernel::rules::tables().doing(|| "list the tables of rules")?;
        lines.extend(tables.iter().map(|table| format!("table '{table}'")));
        lines.extend(settings().into_iter().map(|(name, value)| format!("{name} = {value}")));
        Ok(Self { lines })
    }

    /// The same without what all networks of a driver may share.
    pub(crate) fn without_rules() -> Verdict<Self> {
        let links = kernel::links().doing(|| "list the links")?;
        let addresses = kernel::addresses_of_links().doing(|| "list the addresses")?;
        let routes = kernel::routes().doing(|| "list the routes")?;
        let name = |index: Option<u32>| {
            links.iter().find(|link| Some(link.index) == index).map_or("nothing", |link| link.name.as_str())
        };
        let mut lines = BTreeSet::new();
        for link in &links {
            let (state, mac) = (if link.is_up { "up" } else { "down" }, &link.mac);
            lines.insert(format!(
                "link '{}' ({}), {state}, {mac:02x?}, MTU {}, port of {}",
                link.name,
                link.alias,
                link.mtu,
                name(link.master)
            ));
        }
        for (link, address) in addresses.iter().filter(|(_, address)| !is_the_kernels(address.subnet())) {
            lines.insert(format!("address {address} of '{}'", name(Some(*link))));
        }
        for route in routes.iter().filter(|route| !is_the_kernels(route.to)) {
            lines.insert(format!(
                "route to {} by {:?} out of '{}'",
                route.to,
                route.gateway,
                name(route.link)
            ));
        }
        Ok(Self { lines })
    }

    /// Fails where something is there that was not, or the other way round.
    pub(crate) fn is_same_as(&self, before: &Self, what: &str) -> Verdict {
        let new: Vec<&str> = self.lines.difference(&before.lines).map(String::as_str).collect();
        let gone: Vec<&str> = before.lines.difference(&self.lines).map(String::as_str).collect();
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        Err(Stop::failed(format!("{what}: there is now {new:?}, there is no more {gone:?}")))
    }

    /// Waits until all is as it was, for the kernel removes some things by itself, in a moment.
    pub(crate) fn comes_back(&self, now: fn() -> Verdict<Self>, what: &str) -> Verdict {
        eventually(|| now()?.is_same_as(self, what))
    }
}

/// Waits until this succeeds, for what the kernel does by itself; gives up with what it last said.
pub(crate) fn eventually(mut looked: impl FnMut() -> Verdict) -> Verdict {
    let since = Instant::now();
    loop {
        match looked() {
            Err(_) if since.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(5)),
            ended => return ended,
        }
    }
}

/// Link-local and multicast IPv6.
fn is_the_kernels(subnet: Subnet) -> bool {
    match subnet.first() {
        std::net::IpAddr::V6(first) => first.is_unicast_link_local() || first.is_multicast(),
        std::net::IpAddr::V4(_) => false,
    }
}

/// The host's own settings that a driver may have to change.
pub(crate) fn settings() -> Vec<(String, String)> {
    let names = [
        "ipv4/ip_forward".to_owned(),
        "ipv6/conf/all/forwarding".to_owned(),
        "ipv6/conf/default/forwarding".to_owned(),
        format!("ipv6/conf/{UPLINK}/forwarding"),
        format!("ipv6/conf/{UPLINK}/accept_ra"),
        format!("ipv4/conf/{UPLINK}/route_localnet"),
        "ipv4/conf/all/route_localnet".to_owned(),
        "ipv4/conf/all/rp_filter".to_owned(),
    ];
    names.into_iter().map(|name| (name.replace('/', "."), setting(&name).unwrap_or_default())).collect()
}

/// A setting of the namespace of the calling thread, named as a path below `/proc/sys/net`.
pub(crate) fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok().map(|value| value.trim().to_owned())
}
