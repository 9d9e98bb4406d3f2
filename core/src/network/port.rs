//! Published ports: the wish, as `-p` says it, and the promise, with every port fixed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// What is meant where none is named.
    #[default]
    Tcp,
    /// Its traffic has no connections, but the kernel's tracking of it does: stale entries outlive a container.
    Udp,
    /// Streams of messages; the kernel needs it in its connection tracking.
    Sctp,
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => {
                let text = text.escape_debug();
                Err(Error::Options(format!(
                    "unknown protocol '{text}'; those with ports are: tcp, udp, sctp"
                )))
            }
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// Ports from `first` to `last`, both included; never 0, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`. Fails with [`Error::Options`] for port 0 and for an empty range.
    pub fn new(first: u16, last: u16) -> Result<Self> {
        if first == 0 || last < first {
            return Err(Error::Options(format!(
                "ports {first}-{last}: the first is at least 1 and at most the last"
            )));
        }
        Ok(Self { first, last })
    }

    /// One port.
    pub fn one(port: u16) -> Result<Self> {
        Self::new(port, port)
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many there are: 1 to 65535.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// Each port.
    pub const fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// As many ports from `first` on. Fails with [`Error::Options`] past the last port, 65535.
    fn moved_to(self, first: u16) -> Result<Self> {
        let last = first.checked_add(self.count() - 1).ok_or_else(|| {
            Error::Options(format!("{} ports from {first} on go past port 65535", self.count()))
        })?;
        Self::new(first, last)
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        match (port(first), port(last)) {
            (Some(first), Some(last)) => Self::new(first, last),
            _ => {
                let text = text.escape_debug();
                Err(Error::Options(format!(
                    "'{text}' is no port; write one from 1 to 65535, or a range as 3000-3099"
                )))
            }
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// What a user wants to have published, before the host's ports are chosen: `80`, `8080:80`, `127.0.0.1:9090:90/udp`,
/// `[::1]:8080:80`, `3000-3099:3000-3099`, `127.0.0.1::80`, `8000-8010:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    protocol: Protocol,
    address: Option<IpAddr>,
    host: Option<PortRange>,
    container: PortRange,
}

impl Publish {
    /// The wish of these parts: at this address of the host, or at all where there is `None`; at these ports of the
    /// host, or at any free ones. Fails with [`Error::Options`] unless there are as many ports on the host as in the
    /// container, or one in the container, for which any of the host's will do.
    pub fn new(
        protocol: Protocol,
        address: Option<IpAddr>,
        host: Option<PortRange>,
        container: PortRange,
    ) -> Result<Self> {
        if let Some(host) = host
            && container.count() != 1
            && host.count() != container.count()
        {
            return Err(Error::Options(format!(
                "ports {host}:{container}: {} of the host cannot stand for {} of the container",
                host.count(),
                container.count()
            )));
        }
        Ok(Self { protocol, address, host, container })
    }

    /// The first ports of the host that would do, for an allocator to try in this order; `None`: any.
    pub fn choices(&self) -> Option<RangeInclusive<u16>> {
        self.host.map(|host| host.first()..=host.last() - (self.container.count() - 1))
    }

    /// The port, once it is known where on the host it begins. Fails with [`Error::Options`] for a place that was not
    /// wished for.
    pub fn at(&self, first: u16) -> Result<Port> {
        let host = self.container.moved_to(first)?;
        match self.choices() {
            Some(choices) if !choices.contains(&first) => {
                Err(Error::Options(format!("port {first} is not among those that '{self}' asks for")))
            }
            _ => Ok(Port { protocol: self.protocol, address: self.address, host, container: self.container }),
        }
    }

    /// The protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address of the host; `None`: every one.
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The same at this address, unless it names one itself.
    pub fn or_at(self, address: Option<Ipv4Addr>) -> Self {
        Self { address: self.address.or(address.map(IpAddr::V4)), ..self }
    }

    /// The ports of the host to choose among; `None`: any free ones.
    pub const fn host(&self) -> Option<PortRange> {
        self.host
    }

    /// The ports of the container.
    pub const fn container(&self) -> PortRange {
        self.container
    }
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let text = text.escape_debug();
            Error::Options(format!(
                "'{text}' is no published port; write [[ADDRESS:]HOST-PORT:]PORT[/PROTOCOL], as in 127.0.0.1:8080:80/tcp"
            ))
        };
        let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = protocol.parse()?;
        let (rest, container) = match rest.rsplit_once(':') {
            Some((rest, container)) => (Some(rest), container),
            None => (None, rest),
        };
        let container = container.parse()?;
        let Some(rest) = rest else {
            return Self::new(protocol, None, None, container);
        };
        let (address, host) = match rest.rsplit_once(':') {
            Some((address, host)) => (Some(host_address(address).ok_or_else(refuse)?), host),
            None => (None, rest),
        };
        let host = match host {
            "" if address.is_none() => return Err(refuse()),
            "" => None,
            ports => Some(ports.parse()?),
        };
        Self::new(protocol, address, host, container)
    }
}

impl TryFrom<String> for Publish {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

/// An address before a port: one of IPv6 stands in brackets.
fn host_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok().filter(IpAddr::is_ipv4),
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host {
            Some(host) => write!(f, "{host}:")?,
            None if self.address.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}/{}", self.container, self.protocol)
    }
}

/// A published port, or as many in a row: what arrives at the host's goes to the container's. Every port is known and
/// was reserved on the host, by whoever hands it to a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    protocol: Protocol,
    address: Option<IpAddr>,
    host: PortRange,
    container: PortRange,
}

impl Port {
    /// The protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address of the host at which it is reached. `None`: every one of either family. `0.0.0.0` and `::` are
    /// every one of their own.
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The ports of the host.
    pub const fn host(&self) -> PortRange {
        self.host
    }

    /// The ports of the container, as many, in the same order.
    pub const fn container(&self) -> PortRange {
        self.container
    }

    /// Each port of the host with the one of the container that it leads to.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> {
        self.host.ports().zip(self.container.ports())
    }

    /// Whether some packet could be meant for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_address = match (self.address, other.address) {
            (Some(one), Some(other)) => {
                let all_of_one = one.is_unspecified() || other.is_unspecified();
                one == other || (all_of_one && one.is_ipv4() == other.is_ipv4())
            }
            _ => true,
        };
        self.protocol == other.protocol && same_address && self.host.overlaps(other.host)
    }
}

impl FromStr for Port {
    type Err = Error;

    /// Reads a [`Publish`] that leaves nothing to choose.
    fn from_str(text: &str) -> Result<Self> {
        let wish: Publish = text.parse()?;
        match wish.choices().map(RangeInclusive::into_inner) {
            Some((first, last)) if first == last => wish.at(first),
            _ => Err(Error::Options(format!("'{wish}' leaves the port of the host open; name one"))),
        }
    }
}

impl TryFrom<String> for Port {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, address, host, container } = *self;
        Publish { protocol, address, host: Some(host), container }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(text: &str) -> Publish {
        text.parse().unwrap()
    }

    fn port(text: &str) -> Port {
        text.parse().unwrap()
    }

    #[test]
    fn a_wish_is_read_as_docker_writes_it() {
        for (text, long) in [
            ("80", "80/tcp"),
            ("80/UDP", "80/udp"),
            ("8080:80", "8080:80/tcp"),
            ("127.0.0.1:9090:90/udp", "127.0.0.1:9090:90/udp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]:8080:80/sctp", "[::1]:8080:80/sctp"),
            ("[fd00::9]::80-89", "[fd00::9]::80-89/tcp"),
            ("3000-3099:3000-3099", "3000-3099:3000-3099/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("1-65535", "1-65535/tcp"),
        ] {
            assert_eq!(publish(text).to_string(), long);
            assert_eq!(publish(long), publish(text));
        }
    }

    #[test]
    fn what_is_no_wish_is_refused() {
        for bad in [
            "",
            "/",
            ":",
            "::",
            ":80",
            "x",
            "0",
            "65536",
            "-1",
            "+80",
            "80-",
            "-80",
            "90-80",
            "80/",
            "80/icmp",
            "80:",
            "80/tcp/udp",
            "a:80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "[::1:80:80",
            "1.2.3.4:5:6:7",
            "80-81:80-82",
            "80:80-81",
            "127.0.0.1:80",
            "80 :80",
            "fe80::1%eth0:80:80",
        ] {
            assert!(bad.parse::<Publish>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_says_what_would_be_right() {
        let text = |bad: &str| bad.parse::<Publish>().unwrap_err().to_string();
        assert!(text("host:80:80").contains("[[ADDRESS:]HOST-PORT:]PORT[/PROTOCOL]"));
        assert_eq!(text("80/icmp"), "unknown protocol 'icmp'; those with ports are: tcp, udp, sctp");
        assert_eq!(
            text("80-81:80-82"),
            "ports 80-81:80-82: 2 of the host cannot stand for 3 of the container"
        );
    }

    #[test]
    fn a_wish_becomes_a_port_at_the_places_it_allows() {
        let any = publish("80-89");
        assert_eq!(any.choices(), None);
        assert_eq!(any.at(40000).unwrap().to_string(), "40000-40009:80-89/tcp");
        assert!(any.at(65530).is_err() && any.at(0).is_err());
        let one_of = publish("8000-8010:80");
        assert_eq!(one_of.choices(), Some(8000..=8010));
        assert_eq!(one_of.at(8010).unwrap().to_string(), "8010:80/tcp");
        assert!(one_of.at(8011).is_err());
        assert_eq!(publish("3000-3099:3000-3099").choices(), Some(3000..=3000));
    }

    #[test]
    fn a_port_is_recorded_as_text_and_leads_port_by_port() {
        let range = port("[::]:3000-3002:80-82/udp");
        let text = serde_json::to_string(&range).unwrap();
        assert_eq!(text, "\"[::]:3000-3002:80-82/udp\"");
        assert_eq!(serde_json::from_str::<Port>(&text).unwrap(), range);
        assert_eq!(range.pairs().collect::<Vec<_>>(), [(3000, 80), (3001, 81), (3002, 82)]);
        for open in ["80", "127.0.0.1::80", "8000-8010:80"] {
            assert!(serde_json::from_str::<Port>(&format!("\"{open}\"")).is_err(), "{open}");
        }
    }

    #[test]
    fn ports_are_in_each_others_way_when_one_packet_could_be_for_both() {
        for (one, other, overlap) in [
            ("80:80", "80:81", true),
            ("80:80", "80:80/udp", false),
            ("80-90:80-90", "90:1", true),
            ("80-90:80-90", "91:1", false),
            ("127.0.0.1:80:80", "127.0.0.2:80:80", false),
            ("127.0.0.1:80:80", "80:80", true),
            ("0.0.0.0:80:80", "127.0.0.1:80:80", true),
            ("0.0.0.0:80:80", "[::]:80:80", false),
            ("[::]:80:80", "[::1]:80:80", true),
        ] {
            assert_eq!(port(one).overlaps(&port(other)), overlap, "{one} {other}");
            assert_eq!(port(other).overlaps(&port(one)), overlap, "{other} {one}");
        }
    }
}
