//! The simplest network driver that keeps the whole contract: a bridge, with neither ports nor a shield.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mica_conformance::network::Namespace;
use mica_conformance::network::kernel::{self, Birth, Link};
use mica_core::network::{
    Address, Addressing, Attachment, Endpoint, EndpointId, Families, Family, HostChange, Interface,
    InterfaceName, Mac, Mark, NetCapabilities, Network, NetworkDriver, NetworkId, Owned, OwnerId, Prefix,
    Raised, Scope, Subnet,
};
use mica_core::{Error, OptionMap, Result, Support, options};

const PATIENCE: Duration = Duration::from_secs(10);
const BRIDGE: Prefix = Prefix::new(b"plbr");
const PORT: Prefix = Prefix::new(b"plpt");

mica_core::driver_options! {
    /// None.
    struct Options {}
}

#[derive(Debug)]
pub(crate) struct Plain {
    name: &'static str,
    owner: OwnerId,
    dir: PathBuf,
    capabilities: NetCapabilities,
    /// Whether neighbours are told who has an address now.
    pub(crate) announces: bool,
}

/// The kernel looks at the carrier of a link some time after it changed; until then the bridge drops what is announced.
fn wait_until_it_forwards(port: &str) -> io::Result<()> {
    let since = Instant::now();
    while !kernel::link(port)?.is_some_and(|port| port.forwards) {
        if since.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("the bridge does not pass on what '{port}' sends")));
        }
    }
    Ok(())
}

fn kernel_failed(doing: &str) -> impl FnOnce(io::Error) -> Error {
    Error::io(move || doing.to_owned())
}

impl Plain {
    pub(crate) fn open(name: &'static str, owner: OwnerId, dir: &Path, given: &OptionMap) -> Result<Self> {
        let _: Options = options::parse_network(name, given, Options::DOCS)?;
        Ok(Self { name, owner, dir: dir.to_owned(), capabilities: capabilities(), announces: true })
    }

    /// The bridge of a network, and the port of an endpoint.
    pub(crate) fn bridge(id: NetworkId) -> InterfaceName {
        InterfaceName::of_network(BRIDGE, &id)
    }

    pub(crate) fn port(id: EndpointId) -> InterfaceName {
        InterfaceName::of_endpoint(PORT, &id)
    }

    pub(crate) fn mark(&self, scope: Scope) -> Mark {
        Mark { owner: self.owner, scope }
    }

    fn unsupported(&self, op: &'static str) -> Error {
        Error::Unsupported { driver: self.name.to_owned(), op }
    }

    /// The link of this name, if it bears this mark; `AlreadyExists` for somebody else's.
    fn own(&self, name: &InterfaceName, scope: Scope) -> Result<Option<Link>> {
        let link = kernel::link(name.as_str()).map_err(kernel_failed("look for a link"))?;
        match link {
            Some(link) if link.mark() != Some(self.mark(scope)) => {
                Err(Error::AlreadyExists { what: format!("link '{name}' of somebody else's") })
            }
            own => Ok(own),
        }
    }

    fn remove(&self, name: &InterfaceName, scope: Scope) -> Result<()> {
        match self.own(name, scope) {
            Ok(Some(_)) => match kernel::remove_link(name.as_str()) {
                // It may have gone by itself just now, with the container's namespace.
                Err(_) if matches!(self.own(name, scope), Ok(None)) => Ok(()),
                removed => removed.map_err(kernel_failed("remove a link")),
            },
            Ok(None) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn raise(&self, net: &Network) -> io::Result<()> {
        let name = Self::bridge(net.id);
        let name = name.as_str();
        if kernel::link(name)?.is_none() {
            kernel::add_bridge(name)?;
            kernel::set_alias(name, &self.mark(Scope::Network(net.id)).to_string())?;
            // One that was given stays when ports come and go.
            let [a, b, c, d, ..] = *net.id.as_bytes();
            kernel::set_mac(name, Mac::new([2, 1, a, b, c, d]).map_err(io::Error::other)?)?;
            kernel::set_mtu(name, net.mtu.unwrap_or(1500))?;
        }
        let there = kernel::addresses(Some(name))?;
        for address in gateways(net).map_err(io::Error::other)? {
            if !there.contains(&address) {
                kernel::add_address(name, address)?;
            }
        }
        if kernel::link(name)?.is_some_and(|link| !link.is_up) { kernel::set_up(name, true) } else { Ok(()) }
    }

    fn connect(&self, net: &Network, ep: &Endpoint, told: &Interface, ns: BorrowedFd<'_>) -> io::Result<()> {
        let port = Self::port(ep.id);
        let (port, inner) = (port.as_str(), ep.interface.as_str());
        let scope = Scope::Endpoint(net.id, ep.id);
        kernel::set_alias(port, &self.mark(scope).to_string())?;
        kernel::set_master(port, Self::bridge(net.id).as_str())?;
        kernel::set_up(port, true)?;
        let announces = if self.announces { "1" } else { "0" };
        Namespace::of(ns)?.inside(|| {
            // With these the kernel tells neighbours of the addresses when the hardware address is set.
            for (name, value) in [
                (format!("ipv4/conf/{inner}/arp_notify"), announces),
                (format!("ipv6/conf/{inner}/ndisc_notify"), announces),
                (format!("ipv6/conf/{inner}/accept_ra"), "0"),
            ] {
                fs::write(format!("/proc/sys/net/{name}"), value)?;
            }
            told.addresses.iter().try_for_each(|address| kernel::add_address(inner, *address))?;
            kernel::set_up(inner, true)
        })?;
        wait_until_it_forwards(port)?;
        // Now the bridge has a carrier, too. To be asked for it makes the kernel take note; until then the host sends nothing there.
        kernel::link(Self::bridge(net.id).as_str())?;
        Namespace::of(ns)?.inside(|| {
            kernel::set_mac(inner, told.mac)?;
            default_gateways(net, ep.gateway).into_iter().try_for_each(|by| kernel::add_route(all(by), by))
        })
    }

    fn attached(&self, net: &Network, ep: &Endpoint) -> Result<Option<Link>> {
        self.own(&Self::port(ep.id), Scope::Endpoint(net.id, ep.id))
    }
}

fn capabilities() -> NetCapabilities {
    NetCapabilities {
        addressing: Addressing::Engine,
        ipv6: Support::Yes,
        ports: Support::no("it has no firewall"),
        internal: Support::no("it has no firewall"),
        shielded: false,
        mac: true,
        live: true,
        max_endpoints: None,
    }
}

/// The addresses of the bridge.
fn gateways(net: &Network) -> Result<Vec<Address>> {
    net.pools.iter().filter_map(|pool| Some(pool.subnet.address(pool.gateway?))).collect()
}

fn default_gateways(net: &Network, wanted: Families) -> Vec<IpAddr> {
    let all = net.pools.iter().filter_map(|pool| pool.gateway);
    all.filter(|gateway| wanted.has(Family::of(*gateway))).collect()
}

/// Everything of the family of this address.
fn all(like: IpAddr) -> Subnet {
    if like.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap()
}

fn first_of(subnet: Subnet) -> IpAddr {
    match subnet.first() {
        IpAddr::V4(first) => std::net::Ipv4Addr::from_bits(first.to_bits() + 1).into(),
        IpAddr::V6(first) => std::net::Ipv6Addr::from_bits(first.to_bits() + 1).into(),
    }
}

fn interface(net: &Network, ep: &Endpoint) -> Result<Interface> {
    let prefixed = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) if v4.is_link_local() => Address::new(*ip, 16),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Address::new(*ip, 64),
        _ => {
            let pool = net.pools.iter().find(|pool| pool.subnet.family() == Family::of(*ip));
            let pool = pool.ok_or_else(|| Error::Options(format!("there is no pool for {ip}")))?;
            pool.subnet.address(*ip)
        }
    };
    Ok(Interface {
        name: ep.interface.clone(),
        mac: ep.mac.unwrap_or_else(|| Mac::of_endpoint(&ep.id)),
        mtu: net.mtu.unwrap_or(1500),
        addresses: ep.addresses.iter().map(prefixed).collect::<Result<_>>()?,
    })
}

/// What is missing or wrong inside.
fn wrong_inside(told: &Interface, gateways: &[IpAddr]) -> io::Result<Vec<String>> {
    let Some(link) = kernel::link(told.name.as_str())? else {
        return Ok(vec![format!("there is no '{}'", told.name)]);
    };
    let mut wrong = Vec::new();
    if !link.is_up {
        wrong.push("the interface is down".to_owned());
    }
    if link.mtu != told.mtu {
        wrong.push(format!("MTU {}, expected {}", link.mtu, told.mtu));
    }
    if link.mac != told.mac.octets() {
        wrong.push(format!("hardware address {:02x?}, expected {}", link.mac, told.mac));
    }
    let there = kernel::addresses(Some(told.name.as_str()))?;
    wrong.extend(told.addresses.iter().filter(|a| !there.contains(a)).map(|a| format!("no address {a}")));
    let routes = kernel::routes()?;
    let has = |by: &IpAddr| routes.iter().any(|r| r.to == all(*by) && r.gateway == Some(*by));
    wrong.extend(gateways.iter().filter(|by| !has(by)).map(|by| format!("no default route by {by}")));
    Ok(wrong)
}

impl NetworkDriver for Plain {
    fn name(&self) -> &str {
        self.name
    }

    fn capabilities(&self) -> &NetCapabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn plan(&self, mut wanted: Network) -> Result<Network> {
        let _: Options = options::parse_network(self.name, &wanted.options, Options::DOCS)?;
        if wanted.internal {
            return Err(self.unsupported("internal"));
        }
        wanted.interface = Some(Self::bridge(wanted.id));
        wanted.mtu = wanted.mtu.or(Some(1500));
        for pool in &mut wanted.pools {
            pool.gateway = pool.gateway.or(Some(first_of(pool.subnet)));
        }
        let has = |family| wanted.pools.iter().any(|pool| pool.subnet.family() == family);
        wanted.routes = Families { v4: has(Family::V4), v6: has(Family::V6) };
        Ok(wanted)
    }

    fn up(&self, net: &Network) -> Result<Raised> {
        let lock = File::create(self.dir.join("lock")).map_err(kernel_failed("make the lock"))?;
        lock.lock().map_err(kernel_failed("lock"))?;
        let rebuilt = self.own(&Self::bridge(net.id), Scope::Network(net.id))?.is_none();
        self.raise(net).map_err(kernel_failed("raise the bridge"))?;
        Ok(Raised { host: Vec::new(), rebuilt })
    }

    fn down(&self, net: &Network) -> Result<()> {
        self.remove(&Self::bridge(net.id), Scope::Network(net.id))
    }

    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        if !ep.ports.is_empty() {
            return Err(self.unsupported("ports"));
        }
        let told = interface(net, ep)?;
        if self.own(&Self::bridge(net.id), Scope::Network(net.id))?.is_none() {
            return Err(Error::NotFound { what: format!("network '{}'", net.name) });
        }
        let birth = Birth { mac: Some(told.mac), mtu: Some(told.mtu) };
        let port = Self::port(ep.id);
        kernel::add_veth(port.as_str(), ep.interface.as_str(), birth, ns).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::AlreadyExists { what: format!("interface '{}'", ep.interface) }
            }
            _ => kernel_failed("make the link")(e),
        })?;
        if let Err(error) = self.connect(net, ep, &told, ns) {
            let _ = kernel::remove_link(port.as_str());
            return Err(kernel_failed("connect the link")(error));
        }
        let gateways = default_gateways(net, ep.gateway);
        Ok(Attachment { interface: Some(told), gateways, ..Attachment::default() })
    }

    fn update(
        &self,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        let bridge = self.own(&Self::bridge(net.id), Scope::Network(net.id))?;
        let (Some(bridge), Some(port)) = (bridge, self.attached(net, ep)?) else {
            return Err(Error::NotFound { what: format!("endpoint '{}'", ep.id) });
        };
        if was.interface != Some(interface(net, ep)?) || !ep.ports.is_empty() {
            return Err(Error::Options("only the gateway can change".to_owned()));
        }
        if port.master != Some(bridge.index) {
            kernel::set_master(&port.name, &bridge.name).map_err(kernel_failed("mend the port"))?;
        }
        let now = default_gateways(net, ep.gateway);
        let (lost, new): (Vec<_>, Vec<_>) = (
            was.gateways.iter().filter(|by| !now.contains(by)).copied().collect(),
            now.iter().filter(|by| !was.gateways.contains(by)).copied().collect(),
        );
        let changed = Namespace::of(ns).and_then(|ns| {
            ns.inside(|| {
                lost.into_iter().try_for_each(|by| kernel::remove_route(all(by), by))?;
                new.into_iter().try_for_each(|by| kernel::add_route(all(by), by))
            })
        });
        changed.map_err(kernel_failed("change the routes"))?;
        Ok(Attachment { gateways: now, ..was.clone() })
    }

    fn check(&self, net: &Network, ep: &Endpoint, was: &Attachment, ns: BorrowedFd<'_>) -> Result<()> {
        let mut wrong = Vec::new();
        let bridge = self.own(&Self::bridge(net.id), Scope::Network(net.id))?;
        match (&bridge, self.attached(net, ep)?) {
            (None, _) => wrong.push("there is no bridge".to_owned()),
            (Some(bridge), port) => {
                if !bridge.is_up {
                    wrong.push("the bridge is down".to_owned());
                }
                if port.is_none_or(|port| !port.is_up || port.master != Some(bridge.index)) {
                    wrong.push("the port is not the bridge's".to_owned());
                }
            }
        }
        let inside = was.interface.as_ref().map_or(Ok(Vec::new()), |told| {
            Namespace::of(ns).and_then(|ns| ns.inside(|| wrong_inside(told, &was.gateways)))
        });
        wrong.extend(inside.map_err(kernel_failed("look inside"))?);
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::Corrupt { what: format!("endpoint '{}'", ep.id), reason: wrong.join("; ") })
    }

    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        _: Option<&Attachment>,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        self.remove(&Self::port(ep.id), Scope::Endpoint(net.id, ep.id))
    }

    fn list(&self) -> Result<Vec<Owned>> {
        let links = kernel::links().map_err(kernel_failed("list the links"))?;
        let ours = links.into_iter().filter_map(|link| {
            let mark = link.mark().filter(|mark| mark.owner == self.owner)?;
            Some(Owned { scope: mark.scope, object: format!("link '{}'", link.name) })
        });
        Ok(ours.collect())
    }

    fn restore(&self) -> Result<Vec<HostChange>> {
        Ok(Vec::new())
    }
}
