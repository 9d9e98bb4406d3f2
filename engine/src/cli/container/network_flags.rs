//! The flags that say what a container sees of networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use mica_core::network::{Mac, Protocol, Publish};
use mica_names::{ExtraHost, HostTarget};

use super::wish;
use crate::container::{ConnectWish, NetworkMode, Networking};
use crate::{Engine, Error, Result, networks};

/// What Docker calls the default network, too.
const DOCKERS_DEFAULT: &str = "default";

/// What a container sees of networks.
#[derive(Debug, Default, Args)]
pub(super) struct NetworkFlags {
    /// Connect it to a network, or to several; 'name=NETWORK,alias=…,ip=…' says more of one. Or 'none', 'host', or
    /// 'container:CONTAINER', which shares that one's [default: bridge]
    #[arg(long = "network", alias = "net", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Publish a port, or a range of them, on the host
    #[arg(short, long, value_name = "[[ADDRESS:]HOST-PORT:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish every port that it exposes, each at any free port of the host
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Say that it listens on a port
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    expose: Vec<String>,
    /// Its IPv4 address in the first network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address in the first network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Another address there, for its link alone
    #[arg(long = "link-local-ip", value_name = "ADDRESS")]
    link_local: Vec<IpAddr>,
    /// Its hardware address in the first network
    #[arg(long = "mac-address", value_name = "ADDRESS")]
    mac: Option<Mac>,
    /// Call it so, too, in the first network
    #[arg(long = "network-alias", alias = "net-alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Let it ask this server of names, in place of the host's
    #[arg(long = "dns", value_name = "ADDRESS")]
    servers: Vec<String>,
    /// Let it look up names in this domain; '.' is none
    #[arg(long = "dns-search", value_name = "DOMAIN")]
    search: Vec<String>,
    /// Set an option of its resolver, such as 'ndots:2'
    #[arg(long = "dns-option", alias = "dns-opt", value_name = "OPTION")]
    resolver_options: Vec<String>,
    /// Give a name an address; 'host-gateway' is the host's
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    extra_hosts: Vec<String>,
}

/// What the flags ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// For the container's settings.
    pub(super) networking: Networking,
    /// Where it is to be connected.
    pub(super) networks: Vec<(String, ConnectWish)>,
    /// What is asked for in vain.
    pub(super) warning: Option<String>,
}

impl NetworkFlags {
    /// Reads them. A container whose network is to be shared must be there.
    pub(super) fn read(self, engine: &Engine, has_hostname: bool) -> Result<Asked> {
        let mut asked = self.understand()?;
        if let NetworkMode::Container(name) = &mut asked.networking.mode {
            *name = engine.container(name)?.id().to_owned();
            refuse_beside_shared(&asked.networking, has_hostname)?;
        }
        Ok(asked)
    }

    fn understand(self) -> Result<Asked> {
        let (mode, mut networks) = mode(&self.networks)?;
        match networks.first_mut() {
            Some((_, first)) => self.grant(first)?,
            None => self.refuse_without_network()?,
        }
        let mut networking = Networking {
            mode,
            publish: published(&self.publish)?,
            publish_all: self.publish_all,
            exposed: self.expose.iter().map(|text| exposed(text)).collect::<Result<_>>()?,
            servers: self.servers,
            search: self.search,
            resolver_options: self.resolver_options,
            extra_hosts: self.extra_hosts.iter().map(|text| extra_host(text)).collect::<Result<_>>()?,
        };
        mica_names::Wishes::parse(&networking.servers, &networking.search, &networking.resolver_options)?;
        let warning = discard_ports(&mut networking);
        Ok(Asked { networking, networks, warning })
    }

    /// Refuses what only a network could grant.
    fn refuse_without_network(&self) -> Result<()> {
        if self.ip.is_some() || self.ip6.is_some() || !self.link_local.is_empty() {
            return refuse("user specified IP address is supported on user defined networks only");
        }
        if !self.aliases.is_empty() {
            return refuse(
                "network-scoped aliases are supported only for containers in user defined networks",
            );
        }
        if self.mac.is_some() {
            return refuse("conflicting options: mac-address and the network mode");
        }
        Ok(())
    }

    /// Adds to the first network what flags of their own say of it.
    fn grant(&self, first: &mut ConnectWish) -> Result<()> {
        let has = |six: bool| first.addresses.iter().any(|address| address.is_ipv6() == six);
        let (has_four, has_six) = (has(false), has(true));
        for (is_twice, flag, field) in [
            (self.ip.is_some() && has_four, "--ip", "IPv4 address"),
            (self.ip6.is_some() && has_six, "--ip6", "IPv6 address"),
            (self.mac.is_some() && first.mac.is_some(), "--mac-address", "MAC address"),
            (!self.aliases.is_empty() && !first.aliases.is_empty(), "--network-alias", "alias"),
            (
                !self.link_local.is_empty() && !first.link_local.is_empty(),
                "--link-local-ip",
                "link-local IP addresses",
            ),
        ] {
            if is_twice {
                return refuse(&format!(
                    "conflicting options: cannot specify both {flag} and per-network {field}"
                ));
            }
        }
        let addresses = self.ip.map(IpAddr::V4).into_iter().chain(self.ip6.map(IpAddr::V6));
        addresses.into_iter().try_for_each(|address| wish::add(first, address))?;
        self.link_local.iter().try_for_each(|&address| wish::link_local(first, address))?;
        self.aliases.iter().try_for_each(|name| wish::alias(first, name))?;
        first.mac = self.mac.or(first.mac);
        Ok(())
    }
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Error::Invalid(why.to_owned()))
}

/// Whose namespace the container is in, and what it is connected to. One that is to be shared is named, not known yet.
fn mode(texts: &[String]) -> Result<(NetworkMode, Vec<(String, ConnectWish)>)> {
    let mut networks = texts.iter().map(|text| wish::parse(text)).collect::<Result<Vec<_>>>()?;
    if networks.is_empty() {
        networks.push((networks::DEFAULT.to_owned(), ConnectWish::default()));
    }
    let mut names = Vec::new();
    let mut alone = None;
    for (name, _) in &mut networks {
        if name == DOCKERS_DEFAULT {
            networks::DEFAULT.clone_into(name);
        }
        if names.contains(name) {
            return refuse(&format!("network \"{}\" is specified multiple times", name.escape_debug()));
        }
        names.push(name.clone());
        alone = alone.or(match name.as_str() {
            networks::NONE => Some(NetworkMode::None),
            networks::HOST => Some(NetworkMode::Host),
            name => name.strip_prefix("container:").map(|other| NetworkMode::Container(other.to_owned())),
        });
    }
    match alone {
        None => Ok((NetworkMode::Connected, networks)),
        Some(_) if networks.len() > 1 => {
            let only = "'none', 'host' and 'container:NAME' stand alone";
            refuse(&format!(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes: {only}"
            ))
        }
        Some(NetworkMode::Container(name)) if name.is_empty() => {
            refuse("invalid network mode: invalid container format container:<name|id>")
        }
        Some(mode) if networks[0].1 == ConnectWish::default() => Ok((mode, Vec::new())),
        Some(_) => refuse(&format!("network '{}' grants no wishes; leave them out", names[0].escape_debug())),
    }
}

/// What has no meaning for a container that has another one's network.
fn refuse_beside_shared(networking: &Networking, has_hostname: bool) -> Result<()> {
    let resolver = [&networking.servers, &networking.search, &networking.resolver_options];
    let what = match networking {
        _ if has_hostname => "hostname and the network mode",
        _ if resolver.iter().any(|said| !said.is_empty()) => "dns and the network mode",
        _ if !networking.extra_hosts.is_empty() => "custom host-to-IP mapping and the network mode",
        _ if !networking.publish.is_empty() || networking.publish_all => {
            "port publishing and the container type network mode"
        }
        _ if !networking.exposed.is_empty() => "port exposing and the container type network mode",
        _ => return Ok(()),
    };
    refuse(&format!("conflicting options: {what}"))
}

/// Forgets ports that cannot be published, and says so.
fn discard_ports(networking: &mut Networking) -> Option<String> {
    let mode = match networking.mode {
        NetworkMode::Host => networks::HOST,
        NetworkMode::None => networks::NONE,
        NetworkMode::Container(_) | NetworkMode::Connected => return None,
    };
    let asked = !std::mem::take(&mut networking.publish).is_empty() || networking.publish_all;
    networking.publish_all = false;
    asked.then(|| format!("published ports are discarded when using {mode} network mode"))
}

/// The ports that `-p` names, none of them twice at one place.
fn published(texts: &[String]) -> Result<Vec<Publish>> {
    let wishes = texts.iter().map(|text| publish(text)).collect::<Result<Vec<_>>>()?;
    let settled = |wish: &Publish| {
        let place = wish.choices().filter(|choices| choices.start() == choices.end());
        place.map(|place| wish.at(*place.start())).transpose()
    };
    let mut ports = Vec::new();
    for port in wishes.iter().map(settled) {
        let Some(port) = port? else { continue };
        if let Some(other) = ports.iter().find(|other| port.overlaps(other)) {
            return refuse(&format!(
                "ports {other} and {port} are at the same place of the host; publish one"
            ));
        }
        ports.push(port);
    }
    Ok(wishes)
}

/// `[[ADDRESS:]HOST-PORT:]PORT[/PROTOCOL]`, or `published=HOST-PORT,target=PORT,protocol=PROTOCOL`.
fn publish(text: &str) -> Result<Publish> {
    if !text.contains('=') {
        return Ok(text.parse()?);
    }
    let (mut host, mut container, mut protocol) = (None, None, Protocol::default());
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", ports)) => host = Some(ports.parse()?),
            Some(("target", ports)) => container = Some(ports.parse()?),
            Some(("protocol", name)) => protocol = name.parse()?,
            Some(("mode", _)) => {}
            _ => {
                return refuse(&format!(
                    "invalid publish opts format (should be published=, target= or protocol= but got '{}')",
                    field.escape_debug()
                ));
            }
        }
    }
    let Some(container) = container else {
        return refuse(&format!("published port '{}' lacks target=PORT", text.escape_debug()));
    };
    Ok(Publish::new(protocol, None, host, container)?)
}

fn exposed(text: &str) -> Result<Publish> {
    match text.parse::<Publish>()? {
        port if port.address().is_none() && port.host().is_none() => Ok(port),
        _ => refuse(&format!(
            "invalid port format for --expose: {}; write PORT[/PROTOCOL]",
            text.escape_debug()
        )),
    }
}

/// As records say it: `NAME:ADDRESS`.
fn extra_host(text: &str) -> Result<String> {
    let ExtraHost { name, target } = text.parse()?;
    Ok(match target {
        HostTarget::Address(address) => format!("{name}:{address}"),
        HostTarget::Gateway => format!("{name}:host-gateway"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        network: NetworkFlags,
    }

    fn read(words: &str) -> Result<Asked> {
        let words = std::iter::once("run").chain(words.split_whitespace());
        Command::try_parse_from(words).unwrap().network.understand()
    }

    #[test]
    fn a_container_is_on_the_default_network_unless_another_is_named() {
        let one = |name: &str| vec![(name.to_owned(), ConnectWish::default())];
        for (words, mode, networks) in [
            ("", NetworkMode::Connected, one("bridge")),
            ("--network default", NetworkMode::Connected, one("bridge")),
            ("--net web", NetworkMode::Connected, one("web")),
            ("--network none", NetworkMode::None, Vec::new()),
            ("--network host", NetworkMode::Host, Vec::new()),
            ("--network container:web", NetworkMode::Container("web".to_owned()), Vec::new()),
            ("--network a --network b", NetworkMode::Connected, [one("a"), one("b")].concat()),
        ] {
            let asked = read(words).unwrap();
            assert_eq!((asked.networking.mode, asked.networks), (mode, networks), "{words}");
        }
    }

    #[test]
    fn flags_of_their_own_tell_of_the_first_network() {
        let words = "--network name=a,gw-priority=1 --network b --ip 10.0.0.9 --ip6 fd00::9 --network-alias x \
                     --net-alias y --link-local-ip fe80::9 --mac-address 02:00:00:00:00:09";
        let wish = ConnectWish {
            aliases: vec!["x".to_owned(), "y".to_owned()],
            addresses: vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            link_local: vec!["fe80::9".parse().unwrap()],
            mac: Some("02:00:00:00:00:09".parse().unwrap()),
            priority: 1,
            ..ConnectWish::default()
        };
        let expected = vec![("a".to_owned(), wish), ("b".to_owned(), ConnectWish::default())];
        assert_eq!(read(words).unwrap().networks, expected);
    }

    #[test]
    fn what_cannot_go_together_is_refused_in_dockers_words() {
        for (words, why) in [
            ("--network a --network none", "cannot attach both user-defined and non-user-defined"),
            ("--network a --network a", "network \"a\" is specified multiple times"),
            ("--network container:", "invalid container format container:<name|id>"),
            ("--network host --ip 10.0.0.9", "user specified IP address is supported on user defined"),
            ("--network none --network-alias x", "network-scoped aliases are supported only for"),
            ("--network host --mac-address 02:00:00:00:00:09", "mac-address and the network mode"),
            ("--network name=host,alias=x", "network 'host' grants no wishes"),
            ("--network name=a,ip=10.0.0.9 --ip 10.0.0.8", "both --ip and per-network IPv4 address"),
            ("--network name=a,alias=x --network-alias y", "both --network-alias and per-network alias"),
            ("-p 80:80 -p 80:81", "ports 80:80/tcp and 80:81/tcp are at the same place of the host"),
            ("-p published=80", "lacks target=PORT"),
            ("-p colour=red", "invalid publish opts format"),
            ("-p 80:80/icmp", "unknown protocol 'icmp'"),
            ("--expose 80:80", "invalid port format for --expose: 80:80"),
            ("--dns x", "name server 'x' is no address"),
            ("--dns-search a,b", "'a,b' cannot be the name of a host"),
            ("--add-host web", "host 'web' has no address"),
        ] {
            let said = read(words).unwrap_err().to_string();
            assert!(said.contains(why), "{words}: {said}");
        }
    }

    #[test]
    fn what_belongs_to_a_network_is_refused_where_anothers_is_shared() {
        for (words, why) in [
            ("-p 80:80", "port publishing and the container type network mode"),
            ("-P", "port publishing and the container type network mode"),
            ("--expose 80", "port exposing and the container type network mode"),
            ("--dns 10.0.0.1", "dns and the network mode"),
            ("--add-host a:10.0.0.1", "custom host-to-IP mapping and the network mode"),
        ] {
            let asked = read(&format!("--network container:web {words}")).unwrap();
            let said = refuse_beside_shared(&asked.networking, false).unwrap_err().to_string();
            assert_eq!(said, format!("conflicting options: {why}"));
        }
        let said = refuse_beside_shared(&Networking::default(), true).unwrap_err().to_string();
        assert_eq!(said, "conflicting options: hostname and the network mode");
    }

    #[test]
    fn ports_are_published_exposed_and_discarded() {
        let words = "-p 8080:80 -p published=90,target=90,protocol=udp -p 127.0.0.1:8080:80/udp -P --expose 70-71/udp";
        let networking = read(words).unwrap().networking;
        let texts: Vec<String> = networking.publish.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["8080:80/tcp", "90:90/udp", "127.0.0.1:8080:80/udp"]);
        assert!(networking.publish_all);
        assert_eq!(networking.exposed[0].to_string(), "70-71/udp");
        let asked = read("--network host -p 80:80 --expose 70").unwrap();
        assert_eq!(asked.warning.unwrap(), "published ports are discarded when using host network mode");
        assert!(asked.networking.publish.is_empty() && asked.networking.exposed.len() == 1);
    }

    #[test]
    fn a_name_has_an_address_however_it_is_written() {
        let words =
            "--add-host a:10.0.0.1 --add-host b=[fd00::1] --add-host c:fd00::1 --add-host d:host-gateway";
        let hosts = read(words).unwrap().networking.extra_hosts;
        assert_eq!(hosts, ["a:10.0.0.1", "b:fd00::1", "c:fd00::1", "d:host-gateway"]);
    }
}
