//! A network driver outside Mica's tree: the least that keeps the contract.
//!
//! A network is a bridge of the kernel, which has the gateway's address. An endpoint is a pair of links, one of them a port
//! of the bridge, the other in the container. There is no firewall, so it publishes no ports and keeps nobody out.
//! Everything is found again by name and by mark, so there is no record to keep.

mod ip;
mod ours;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use ip::{Link, facts, inside, ip, links, set};
use mica_core::network::{
    Address, Addressing, Attachment, Endpoint, Families, HostChange, Interface, InterfaceName, Mac, Mark,
    NetCapabilities, Network, NetworkDriver, Owned, OwnerId, Pool, Prefix, Raised, Scope,
};
use mica_core::{Error, NetworkEntry, OptionMap, Result, Support, options};
use ours::Ours;

const NAME: &str = "hello";
const BRIDGE: Prefix = Prefix::new(b"hlbr");
const PORT: Prefix = Prefix::new(b"hlpt");
const PATIENCE: Duration = Duration::from_secs(5);

/// The entry for the registry.
pub const NETWORK: NetworkEntry = NetworkEntry {
    name: NAME,
    about: "the example of docs/adding-a-driver.md: a plain bridge",
    options: Options::DOCS,
    settings: Options::DOCS,
    open,
};

mica_core::driver_options! {
    /// There are none, of a network, of an endpoint or of the driver.
    struct Options {}
}

fn open(owner: OwnerId, dir: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>> {
    let Options {} = options::parse_network(NAME, settings, Options::DOCS)?;
    ip("-Version").map_err(|_| Error::Unavailable {
        reason: "the program 'ip' does not start; install the package iproute2".to_owned(),
    })?;
    let capabilities = NetCapabilities {
        addressing: Addressing::Engine,
        ipv6: Support::no("left out of the example"),
        ports: Support::no("it writes no rules for a firewall"),
        internal: Support::no("it writes no rules for a firewall"),
        shielded: false,
        mac: true,
        live: false,
        max_endpoints: None,
    };
    Ok(Box::new(Hello { owner, dir: dir.to_owned(), capabilities }))
}

#[derive(Debug)]
struct Hello {
    owner: OwnerId,
    dir: PathBuf,
    capabilities: NetCapabilities,
}

fn refuse(is_wished: bool, op: &'static str) -> Result<()> {
    if is_wished { Err(Error::Unsupported { driver: NAME.to_owned(), op }) } else { Ok(()) }
}

/// The bridge's address.
fn gateway(net: &Network) -> Result<Address> {
    match net.pools.first() {
        Some(Pool { subnet, gateway: Some(gateway), .. }) => subnet.address(*gateway),
        _ => Err(Error::Options(format!("network '{}' has no gateway; it was never planned", net.name))),
    }
}

/// What the container is to have.
fn interface(net: &Network, ep: &Endpoint) -> Result<Interface> {
    let subnet = net.pools.first().map(|pool| pool.subnet);
    let address = |ip: &IpAddr| match (ip, subnet) {
        (IpAddr::V4(v4), _) if v4.is_link_local() => Address::new(*ip, 16),
        (_, Some(subnet)) => subnet.address(*ip),
        (_, None) => Err(Error::Options(format!("network '{}' has no subnet for {ip}", net.name))),
    };
    Ok(Interface {
        name: ep.interface.clone(),
        mac: ep.mac.unwrap_or_else(|| Mac::of_endpoint(&ep.id)),
        mtu: net.mtu.unwrap_or(1500),
        addresses: ep.addresses.iter().map(address).collect::<Result<_>>()?,
    })
}

/// What is wanted and not among the facts, and what these tell of the same interfaces instead.
fn missing(wanted: &[String], facts: &[String]) -> Vec<String> {
    let missing: Vec<_> = wanted.iter().filter(|line| !facts.contains(line)).collect();
    let interface = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let concerned: Vec<_> = missing.iter().map(|line| interface(line)).collect();
    let instead = facts.iter().filter(|line| concerned.contains(&interface(line)) && !wanted.contains(line));
    let told = missing.iter().map(|line| format!("missing: {line}"));
    told.chain(instead.map(|line| format!("found: {line}"))).collect()
}

impl Hello {
    fn bridge(&self, net: &Network) -> Result<Ours> {
        self.ours(InterfaceName::of_network(BRIDGE, &net.id), net.id.as_bytes(), Scope::Network(net.id))
    }

    fn port(&self, net: &Network, ep: &Endpoint) -> Result<Ours> {
        let scope = Scope::Endpoint(net.id, ep.id);
        self.ours(InterfaceName::of_endpoint(PORT, &ep.id), ep.id.as_bytes(), scope)
    }

    fn ours(&self, name: InterfaceName, id: &[u8; 16], scope: Scope) -> Result<Ours> {
        let [a, b, c, d, e, ..] = *id;
        // A locally administered address, and not the one of the container's end.
        Ok(Ours { name, mac: Mac::new([0x06, a, b, c, d, e])?, mark: Mark { owner: self.owner, scope } })
    }

    /// The mark of a link that is this engine's.
    fn mark(&self, link: &Link) -> Option<Mark> {
        link.ifalias.parse().ok().filter(|mark: &Mark| mark.owner == self.owner)
    }

    /// What is to be told of the network's own links.
    fn shared(&self, net: &Network) -> Result<Vec<String>> {
        let Ours { name, mark, .. } = self.bridge(net)?;
        let address = gateway(net)?;
        Ok(vec![
            format!("'{name}' is up"),
            format!("'{name}' bears {mark}"),
            format!("'{name}' has {address}"),
        ])
    }

    /// Everything that is done after the link was born. Its mark is first.
    fn connect(&self, net: &Network, ep: &Endpoint, told: &Interface, ns: BorrowedFd<'_>) -> Result<()> {
        let (bridge, port, inner) = (self.bridge(net)?, self.port(net, ep)?, &told.name);
        ip(&format!("link set dev {} alias {} master {} up", port.name, port.mark, bridge.name))?;
        inside(ns, || {
            set(&format!("ipv6/conf/{inner}/accept_ra"), "0")?;
            set(&format!("ipv4/conf/{inner}/arp_notify"), "1")?;
            for address in &told.addresses {
                ip(&format!("address add {address} dev {inner}"))?;
            }
            ip(&format!("link set dev {inner} up"))?;
            if ep.gateway.v4 {
                ip(&format!("route add default via {} dev {inner} proto static", gateway(net)?.ip()))?;
            }
            Ok(())
        })?;
        // The kernel looks at the carrier of a link some time after it changed, and passes nothing before.
        let passes = format!("'{}' is a forwarding port of '{}'", port.name, bridge.name);
        let since = Instant::now();
        while !facts()?.contains(&passes) {
            if since.elapsed() > PATIENCE {
                return Err(Error::driver(format!("wait until {passes}"), "the kernel does not set it so"));
            }
        }
        // When the hardware address is set, arp_notify tells neighbours who has the addresses.
        inside(ns, || ip(&format!("link set dev {inner} address {}", told.mac)).map(drop))
    }
}

impl NetworkDriver for Hello {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &NetCapabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn plan(&self, mut wanted: Network) -> Result<Network> {
        let Options {} = options::parse_network(NAME, &wanted.options, Options::DOCS)?;
        refuse(wanted.internal, "internal")?;
        refuse(wanted.pools.iter().any(|pool| pool.subnet.first().is_ipv6()), "ipv6")?;
        let unusable = |why: &str| Err(Error::Options(format!("a network of driver '{NAME}' {why}")));
        if !(68..=65535).contains(wanted.mtu.get_or_insert(1500)) {
            return unusable("takes an MTU from 68 to 65535");
        }
        let name = self.bridge(&wanted)?.name;
        if *wanted.interface.get_or_insert(name.clone()) != name {
            return unusable("names its links itself; leave out the interface");
        }
        let [pool] = &mut wanted.pools[..] else { return unusable("takes one subnet") };
        if let IpAddr::V4(first) = pool.subnet.first() {
            let second = Ipv4Addr::from_bits(first.to_bits().saturating_add(1));
            pool.subnet.address(*pool.gateway.get_or_insert(second.into()))?;
        }
        wanted.routes = Families { v4: true, v6: false };
        Ok(wanted)
    }

    fn up(&self, net: &Network) -> Result<Raised> {
        // Processes that raise one network at once go one after another.
        let lock = File::create(self.dir.join("lock")).map_err(Error::io(|| "make the lock"))?;
        lock.lock().map_err(Error::io(|| "take the lock"))?;
        let bridge = self.bridge(net)?;
        let found = bridge.find()?;
        if missing(&self.shared(net)?, &facts()?).is_empty() {
            return Ok(Raised::default());
        }
        let Ours { name, mac, mark } = &bridge;
        let raise = || {
            if found.is_none() {
                ip(&format!("link add name {name} address {mac} type bridge"))?;
            }
            ip(&format!("link set dev {name} alias {mark}"))?;
            // The host heeds no router advertisement of a container (CVE-2020-10749).
            set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
            ip(&format!("address replace {} dev {name}", gateway(net)?))?;
            ip(&format!("link set dev {name} up"))?;
            let is_port = |mark: Mark| matches!(mark.scope, Scope::Endpoint(id, _) if id == net.id);
            for port in links()?.iter().filter(|link| self.mark(link).is_some_and(is_port)) {
                ip(&format!("link set dev {} master {name}", port.ifname))?;
            }
            Ok(())
        };
        raise().map_err(|error| if found.is_none() { bridge.undo(error) } else { error })?;
        Ok(Raised { host: Vec::new(), rebuilt: found.is_none() })
    }

    fn down(&self, net: &Network) -> Result<()> {
        self.bridge(net)?.remove()
    }

    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        let Options {} = options::parse_network(NAME, &ep.options, Options::DOCS)?;
        refuse(!ep.ports.is_empty(), "ports")?;
        refuse(ep.gateway.v6, "ipv6")?;
        let told = interface(net, ep)?;
        let port = self.port(net, ep)?;
        if self.bridge(net)?.find()?.is_none() {
            return Err(Error::NotFound { what: format!("network '{}'", net.name) });
        }
        if port.find()?.is_some() {
            return Err(Error::AlreadyExists { what: format!("endpoint '{}'", ep.id) });
        }
        let Interface { name: inner, mac, mtu, .. } = &told;
        // Both ends are born where they stay.
        let ns_path = format!("/proc/{}/fd/{}", process::id(), ns.as_raw_fd());
        let outer = format!("name {} address {} mtu {mtu}", port.name, port.mac);
        let inner = format!("name {inner} address {mac} mtu {mtu} netns {ns_path}");
        ip(&format!("link add {outer} type veth peer {inner}")).map_err(|error| match error {
            Error::AlreadyExists { .. } => {
                Error::AlreadyExists { what: format!("interface '{}'", told.name) }
            }
            error => error,
        })?;
        self.connect(net, ep, &told, ns).map_err(|error| port.undo(error))?;
        let gateways = if ep.gateway.v4 { vec![gateway(net)?.ip()] } else { Vec::new() };
        Ok(Attachment { interface: Some(told), gateways, ..Attachment::default() })
    }

    fn update(&self, _: &Network, _: &Attachment, _: &Endpoint, _: BorrowedFd<'_>) -> Result<Attachment> {
        Err(Error::Unsupported { driver: NAME.to_owned(), op: "live" })
    }

    fn check(&self, net: &Network, ep: &Endpoint, _: &Attachment, ns: BorrowedFd<'_>) -> Result<()> {
        let (bridge, port, told) = (self.bridge(net)?.name, self.port(net, ep)?, interface(net, ep)?);
        let Ours { name, mark, .. } = port;
        let mut outside = self.shared(net)?;
        outside.extend([format!("'{name}' is up"), format!("'{name}' bears {mark}")]);
        outside.push(format!("'{name}' is a forwarding port of '{bridge}'"));
        let Interface { name, mac, mtu, addresses } = told;
        let mut wanted = vec![format!("'{name}' is up"), format!("'{name}' has MTU {mtu}")];
        wanted.push(format!("'{name}' has MAC {mac}"));
        wanted.extend(addresses.iter().map(|address| format!("'{name}' has {address}")));
        if ep.gateway.v4 {
            wanted.push(format!("'{name}' leads to default by {}", gateway(net)?.ip()));
        }
        let mut missing = missing(&outside, &facts()?);
        missing.extend(self::missing(&wanted, &inside(ns, facts)?));
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Corrupt { what: format!("endpoint '{}'", ep.id), reason: missing.join("; ") })
    }

    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        _: Option<&Attachment>,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        // The other end goes along, wherever it is, and with it its addresses and routes.
        self.port(net, ep)?.remove()
    }

    fn list(&self) -> Result<Vec<Owned>> {
        let ours = links()?.into_iter().filter_map(|link| {
            let scope = self.mark(&link)?.scope;
            Some(Owned { scope, object: format!("link '{}'", link.ifname) })
        });
        Ok(ours.collect())
    }

    fn restore(&self) -> Result<Vec<HostChange>> {
        Ok(Vec::new())
    }
}
