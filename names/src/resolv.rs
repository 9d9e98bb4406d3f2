//! `resolv.conf`: what the host's says, what the user wished, and what a container gets.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use mica_core::network::InterfaceName;
use mica_core::{Error, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::{ADDRESS, HostName};

/// The port of every name server.
const DNS: u16 = 53;
/// As many servers as a C library asks (`MAXNS`, resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its address.
    pub address: IpAddr,
    /// The interface on whose link a link-local address is, by name, or by number as a name.
    pub zone: Option<InterfaceName>,
}

impl Server {
    /// Where it is reached from this network namespace. Fails where the interface of its zone is not there.
    pub(crate) fn socket_address(&self) -> Result<SocketAddr> {
        let (IpAddr::V6(address), Some(zone)) = (self.address, &self.zone) else {
            return Ok(SocketAddr::new(self.address, DNS));
        };
        let doing = || format!("find the interface '{zone}' of the name server {self}");
        let index = match zone.as_str().parse() {
            Ok(index) => index,
            Err(_) => socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .and_then(|any| netdevice::name_to_index(any, zone.as_str()))
                .map_err(|e| Error::driver(doing(), e))?,
        };
        Ok(SocketAddrV6::new(address, DNS, 0, index).into())
    }

    /// Whether it is another one, or none, for whoever asks from another network namespace.
    fn is_the_hosts_own(&self) -> bool {
        let v4 = match self.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => address.to_ipv4_mapped(),
        };
        let address = v4.map_or(self.address, IpAddr::V4);
        self.zone.is_some() || address.is_loopback() || address.is_unspecified()
    }
}

impl From<IpAddr> for Server {
    fn from(address: IpAddr) -> Self {
        Self { address, zone: None }
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, zone) = text.split_once('%').map_or((text, None), |(a, zone)| (a, Some(zone)));
        let refuse = || Error::Options(format!("name server '{}' is no address", text.escape_debug()));
        let address = address.parse().map_err(|_| refuse())?;
        if zone.is_some() && !matches!(address, IpAddr::V6(_)) {
            return Err(refuse());
        }
        Ok(Self { address, zone: zone.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        self.zone.iter().try_for_each(|zone| write!(f, "%{zone}"))
    }
}

/// What the user asked for: `--dns`, `--dns-search`, `--dns-option`. What was not asked for comes from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    servers: Vec<Server>,
    search: Option<Vec<String>>,
    options: Vec<String>,
}

impl Wishes {
    /// The wishes that these arguments express. A search domain `.` means that there is none.
    ///
    /// Fails with [`Error::Options`] for an argument that would not be one word of its line.
    pub fn parse<T: AsRef<str>>(servers: &[T], search: &[T], options: &[T]) -> Result<Self> {
        let servers =
            servers.iter().map(|server| server.as_ref().parse::<Server>()).collect::<Result<_>>()?;
        let options = options.iter().map(|option| word(option.as_ref())).collect::<Result<_>>()?;
        let domain = |text: &T| text.as_ref().trim_end_matches('.').parse().map(|d: HostName| d.to_string());
        let search = match search {
            [] => None,
            [root] if root.as_ref() == "." => Some(Vec::new()),
            domains => Some(domains.iter().map(domain).collect::<Result<_>>()?),
        };
        Ok(Self { servers, search, options })
    }
}

fn word(option: &str) -> Result<String> {
    if !option.is_empty() && option.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(option.to_owned());
    }
    Err(Error::Options(format!(
        "resolver option '{}' is not one word; those that there are stand in resolv.conf(5), such as ndots:2",
        option.escape_debug()
    )))
}

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// The name servers, in the order in which they are asked.
    pub servers: Vec<Server>,
    /// The domains that a name is looked up in.
    pub search: Vec<String>,
    /// The resolver's options.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads a file as a C library does: what it does not understand it passes over, the last `search` counts.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(|word| word.parse().ok())),
                Some("search") => found.search = words.map(str::to_owned).collect(),
                Some("domain") => found.search = words.next().map(str::to_owned).into_iter().collect(),
                Some("options") => found.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        found
    }

    /// This host's settings with the wishes in their place: what a container's names are looked up by, asked from
    /// the host.
    #[must_use]
    pub fn with(&self, wishes: &Wishes) -> Self {
        let or = |wish: &Vec<String>, host: &Vec<String>| if wish.is_empty() { host } else { wish }.clone();
        Self {
            servers: if wishes.servers.is_empty() { &self.servers } else { &wishes.servers }.clone(),
            search: wishes.search.as_ref().unwrap_or(&self.search).clone(),
            options: or(&wishes.options, &self.options),
        }
    }

    /// The file of a container that asks the servers by itself, for this host and these wishes. `None` where only
    /// the host reaches its servers, because they are on its loopback or its link: then the container needs a
    /// [`Responder`](crate::Responder).
    pub fn direct(&self, wishes: &Wishes) -> Option<String> {
        let mut reached = self.clone();
        reached.servers.retain(|server| !server.is_the_hosts_own());
        let lost = reached.servers.len() < self.servers.len();
        let settings = reached.with(wishes);
        (!lost || !settings.servers.is_empty()).then(|| settings.file())
    }

    /// The file of a container with a [`Responder`](crate::Responder), for this host and these wishes.
    ///
    /// Unless somebody asked for another number, a name without dots is tried as it is before the search domains
    /// are: else `db` would be asked of the world as `db.example.org` first.
    pub fn beside_responder(&self, wishes: &Wishes) -> String {
        let mut settings = self.with(wishes);
        settings.servers = vec![IpAddr::V4(ADDRESS).into()];
        if !settings.options.iter().any(|option| option.starts_with("ndots:")) {
            settings.options.push("ndots:0".to_owned());
        }
        settings.file()
    }

    /// The file that says this.
    pub fn file(&self) -> String {
        let servers = self.servers.iter().take(MAX_SERVERS).map(|server| format!("nameserver {server}\n"));
        let line = |key: &str, words: &[String]| match words {
            [] => String::new(),
            words => format!("{key} {}\n", words.join(" ")),
        };
        servers.chain([line("search", &self.search), line("options", &self.options)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn a_hosts_file_is_read_as_a_c_library_reads_it() {
        let text = "# by hand\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 # link\nnameserver nonsense\n\
                    domain a.org\nsearch b.org c.org\noptions edns0 trust-ad\noptions timeout:1\nsortlist 1.2.3.4\n;x";
        let found = Resolv::parse(text);
        assert_eq!(found.servers, ["10.0.0.1".parse().unwrap(), "fe80::1%eth0".parse().unwrap()]);
        assert_eq!(found.search, ["b.org", "c.org"]);
        assert_eq!(found.options, ["edns0", "trust-ad", "timeout:1"]);
    }

    #[test]
    fn a_resolver_on_the_hosts_loopback_is_never_copied_in() {
        let stub = "127.0.0.53 127.0.0.1 ::1 ::ffff:127.0.0.1 0.0.0.0 fe80::1%eth0";
        for server in stub.split(' ') {
            let only = Resolv::parse(&format!("nameserver {server}\nsearch a.org\n"));
            assert_eq!(only.direct(&Wishes::default()), None, "{server}");
            let second = Resolv::parse(&format!("nameserver {server}\nnameserver 10.0.0.1\n"));
            assert_eq!(second.direct(&Wishes::default()).unwrap(), "nameserver 10.0.0.1\n", "{server}");
            let beside = only.beside_responder(&Wishes::default());
            assert_eq!(beside, "nameserver 127.0.0.11\nsearch a.org\noptions ndots:0\n");
        }
    }

    #[test]
    fn what_the_user_asks_for_replaces_what_the_host_has() {
        let host = Resolv::parse("nameserver 127.0.0.53\nsearch a.org\noptions edns0\n");
        let wishes = Wishes::parse(&["1.1.1.1", "fd00::1"], &["b.org", "c.org."], &["ndots:2"]).unwrap();
        let rest = "search b.org c.org\noptions ndots:2\n";
        let direct = host.direct(&wishes).unwrap();
        assert_eq!(direct, format!("nameserver 1.1.1.1\nnameserver fd00::1\n{rest}"));
        assert_eq!(host.beside_responder(&wishes), format!("nameserver 127.0.0.11\n{rest}"));
        assert_eq!(host.with(&wishes).servers, ["1.1.1.1".parse().unwrap(), "fd00::1".parse().unwrap()]);
    }

    #[test]
    fn a_dot_takes_the_search_domains_away() {
        let host = Resolv::parse("nameserver 10.0.0.1\nsearch a.org\n");
        let wishes = Wishes::parse(&NONE, &["."], &NONE).unwrap();
        assert_eq!(host.direct(&wishes).unwrap(), "nameserver 10.0.0.1\n");
    }

    #[test]
    fn a_host_without_resolvers_gives_a_container_none() {
        assert_eq!(Resolv::default().direct(&Wishes::default()).unwrap(), "");
    }

    #[test]
    fn no_wish_adds_a_line() {
        let refused = |servers: &[&str], search: &[&str], options: &[&str]| {
            assert!(Wishes::parse(servers, search, options).is_err(), "{servers:?} {search:?} {options:?}");
        };
        refused(&["1.1.1.1\nnameserver 2.2.2.2"], &[], &[]);
        refused(&["fe80::1%eth0\nnameserver 2.2.2.2"], &[], &[]);
        refused(&["1.1.1.1%eth0"], &[], &[]);
        refused(&["resolver.example.org"], &[], &[]);
        refused(&[], &["a.org b.org"], &[]);
        refused(&[], &["a.org", "."], &[]);
        refused(&[], &[], &["ndots:1\nnameserver 2.2.2.2"]);
        refused(&[], &[], &[""]);
    }
}
