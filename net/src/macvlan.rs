//! The driver `macvlan`: containers as hosts of a network that is there already.
//!
//! Each endpoint is an interface with a hardware address of its own on an interface of the host, the *parent*. Neighbours of
//! the parent see it as one of them, at the full speed of the link. It reaches other endpoints of the parent, and by the
//! kernel's design not the host itself.
//!
//! The interface is born in the container's namespace and vanishes with it. Nothing of it is on the host, so there is
//! nothing to find after a crash.

mod plan;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use mica_core::network::{
    Addressing, Attachment, Endpoint, HostChange, Interface, InterfaceName, Mac, Mark, NetCapabilities,
    Network, NetworkDriver, Owned, OwnerId, Raised, Scope,
};
use mica_core::{Error, NetworkEntry, OptionMap, Result, Support, options};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, MacVlanMode};
use rtnetlink::{LinkMacVlan, LinkMessageBuilder};
use rustix::io::Errno;

use crate::inside::{Inside, Wanted};
use crate::netlink::link::{self, Link};
use crate::netlink::{Netlink, Request};
use crate::refuse::refuse;
use crate::{endpoint, setting};

const NAME: &str = "macvlan";

/// What the registry knows of it.
pub const MACVLAN: NetworkEntry = NetworkEntry {
    name: NAME,
    about: "containers as hosts of the network that the host is in",
    options: plan::Options::DOCS,
    settings: Settings::DOCS,
    open,
};

mica_core::driver_options! {
    /// What the driver is opened with: nothing.
    struct Settings {}
}

fn open(owner: OwnerId, _: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>> {
    let Settings {} = options::parse_network(NAME, settings, Settings::DOCS)?;
    Ok(Box::new(Macvlan::open(owner)?))
}

#[derive(Debug)]
struct Macvlan {
    owner: OwnerId,
    capabilities: NetCapabilities,
}

impl Macvlan {
    fn open(owner: OwnerId) -> Result<Self> {
        probe()?;
        let ipv6 = match setting::read("ipv6/conf/all/disable_ipv6")? {
            Some(_) => Support::Yes,
            None => Support::no("the kernel was started without IPv6"),
        };
        let capabilities = NetCapabilities {
            addressing: Addressing::Engine,
            ipv6,
            ports: Support::no(
                "containers have addresses of their own in the parent's network; connect to those",
            ),
            internal: Support::no(
                "the parent leads to other hosts; make an internal network of driver 'bridge'",
            ),
            shielded: false,
            mac: true,
            live: true,
            max_endpoints: None,
        };
        Ok(Self { owner, capabilities })
    }

    fn mark(&self, net: &Network, ep: &Endpoint) -> Mark {
        Mark { owner: self.owner, scope: Scope::Endpoint(net.id, ep.id) }
    }

    /// What the interface inside is to be.
    fn wanted(&self, net: &Network, ep: &Endpoint) -> Result<Wanted> {
        let Some(mtu) = net.mtu else {
            return Err(Error::Options(format!("network '{}' has no MTU; it was never planned", net.name)));
        };
        Ok(Wanted {
            name: ep.interface.clone(),
            mark: self.mark(net, ep),
            mac: mac(ep),
            mtu,
            addresses: endpoint::addresses(net, ep)?,
            gateways: endpoint::gateways(net, ep)?,
        })
    }

    /// The endpoint's interfaces in this namespace.
    fn ours(
        &self,
        netlink: &mut Netlink,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
    ) -> Result<Vec<Link>> {
        let mark = self.mark(net, ep);
        let attached = was.and_then(|was| was.interface.as_ref()).map(|interface| interface.name.as_str());
        // It was just born and bears no mark yet, or the container's root has changed what it could. Without an attachment a
        // name proves nothing: it may be the one that was in the way.
        let unmarked = |link: &Link| {
            link.mark().is_none()
                && link.kind == Some(InfoKind::MacVlan)
                && (link.mac == Some(mac(ep)) || attached == Some(link.name.as_str()))
        };
        let mut links = link::links(netlink)?;
        links.retain(|link| link.mark() == Some(mark) || unmarked(link));
        Ok(links)
    }

    fn remove(
        &self,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        ns: BorrowedFd<'_>,
    ) -> Result<()> {
        let mut netlink = Netlink::open_in(ns)?;
        let ours = self.ours(&mut netlink, net, ep, was)?;
        let removed = ours.iter().map(|link| link::remove(&mut netlink, link));
        let failures = removed.filter_map(|removed| removed.err().map(Error::from)).collect();
        Error::unless_complete(named(ep), failures)
    }
}

fn interface(wanted: &Wanted) -> Interface {
    let Wanted { name, mac, mtu, addresses, .. } = wanted.clone();
    Interface { name, mac, mtu, addresses }
}

fn mac(ep: &Endpoint) -> Mac {
    ep.mac.unwrap_or_else(|| Mac::of_endpoint(&ep.id))
}

/// Asks the kernel for an interface without a parent, which it refuses in one way if it knows the kind and in another if not.
fn probe() -> Result<()> {
    let nothing = LinkMessageBuilder::<LinkMacVlan>::new_with_info_kind(InfoKind::MacVlan).build();
    let request = Request::create(RouteNetlinkMessage::NewLink(nothing), "probe for macvlan");
    let lacking = |reason: &str| Err(Error::Unavailable { reason: reason.to_owned() });
    match Netlink::open()?.tell(vec![request]) {
        Err(refused) if refused.errno == Errno::INVAL => Ok(()),
        Err(refused) if refused.errno == Errno::OPNOTSUPP => lacking(
            "the kernel has no macvlan; load the module 'macvlan' or take a kernel with CONFIG_MACVLAN",
        ),
        Err(refused) if refused.errno == Errno::PERM => {
            lacking("making an interface takes the capability CAP_NET_ADMIN; run as root")
        }
        Err(refused) => Err(refused.into()),
        Ok(()) => Err(Error::driver("probe for macvlan", "the kernel made an interface without a parent")),
    }
}

/// The interface that the network stands on, or what is wrong with it.
fn parent(netlink: &mut Netlink, net: &Network) -> Result<Link> {
    let gone = |what: String| Error::NotFound { what: format!("{what} of network '{}'", net.name) };
    let Some(name) = &net.interface else { return Err(gone("the parent".to_owned())) };
    link::by_name(netlink, name.as_str())?.ok_or_else(|| gone(format!("the parent '{name}'")))
}

/// Makes the interface in the namespace where it stays, down.
fn bear(netlink: &mut Netlink, wanted: &Wanted, parent: &Link, ns: BorrowedFd<'_>) -> Result<()> {
    let message = LinkMacVlan::new(wanted.name.as_str(), parent.index, MacVlanMode::Bridge)
        .setns_by_fd(ns.as_raw_fd())
        .address(wanted.mac.octets().to_vec())
        .mtu(wanted.mtu)
        .build();
    let doing = format!("make interface '{}' on '{}'", wanted.name, parent.name);
    match netlink.tell(vec![Request::create(RouteNetlinkMessage::NewLink(message), doing)]) {
        Err(refused) if refused.errno == Errno::EXIST => Err(taken(&wanted.name)),
        done => Ok(done?),
    }
}

fn taken(name: &InterfaceName) -> Error {
    Error::AlreadyExists { what: format!("interface '{name}' in the container") }
}

/// The kernel sets no two interfaces of a parent up that have one hardware address.
fn explained(error: Error, wanted: &Wanted, parent: &Link) -> Error {
    let Error::Driver { source, .. } = &error else { return error };
    match source.downcast_ref::<io::Error>() {
        Some(cause) if cause.kind() == io::ErrorKind::AddrInUse => Error::AlreadyExists {
            what: format!("an interface with the address {} on '{}'", wanted.mac, parent.name),
        },
        _ => error,
    }
}

fn named(ep: &Endpoint) -> String {
    format!("endpoint '{}'", ep.id)
}

impl NetworkDriver for Macvlan {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &NetCapabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn plan(&self, wanted: Network) -> Result<Network> {
        refuse(NAME, wanted.internal, "internal")?;
        refuse(NAME, !self.capabilities.ipv6.is_yes() && plan::has_ipv6(&wanted), "ipv6")?;
        plan::plan(&mut Netlink::open()?, wanted)
    }

    /// There is nothing to make: it looks at the parent.
    fn up(&self, net: &Network) -> Result<Raised> {
        let unavailable = |reason| Err(Error::Unavailable { reason });
        match parent(&mut Netlink::open()?, net) {
            Ok(parent) if parent.up => Ok(Raised::default()),
            Ok(Link { name, .. }) => unavailable(format!(
                "interface '{name}', on which network '{}' stands, is down; set it up with 'ip link set {name} up'",
                net.name
            )),
            Err(error @ Error::NotFound { .. }) => unavailable(error.to_string()),
            Err(error) => Err(error),
        }
    }

    fn down(&self, _: &Network) -> Result<()> {
        Ok(())
    }

    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        refuse(NAME, !ep.ports.is_empty(), "ports")?;
        let plan::EndpointOptions {} =
            options::parse_network(NAME, &ep.options, plan::EndpointOptions::DOCS)?;
        let mut netlink = Netlink::open()?;
        let parent = parent(&mut netlink, net)?;
        if !parent.up {
            let what = format!("network '{}' on interface '{}', which is down,", net.name, parent.name);
            return Err(Error::NotFound { what });
        }
        let wanted = self.wanted(net, ep)?;
        bear(&mut netlink, &wanted, &parent, ns)?;
        let configured = Inside::configure(ns, &wanted).and_then(|mut inside| inside.announce(&wanted));
        if let Err(error) = configured {
            let error = explained(error, &wanted, &parent);
            return Err(match self.remove(net, ep, None, ns) {
                Ok(()) => error,
                Err(left) => Error::Incomplete { what: named(ep), failures: vec![error, left] },
            });
        }
        let interface = Some(interface(&wanted));
        Ok(Attachment { interface, gateways: wanted.gateways, ..Attachment::default() })
    }

    fn update(
        &self,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        refuse(NAME, !ep.ports.is_empty(), "ports")?;
        let ours = self.ours(&mut Netlink::open_in(ns)?, net, ep, Some(was))?;
        let inside = match ours.first() {
            Some(link) => Inside::find(ns, &link.name.parse()?)?,
            None => None,
        };
        let Some(mut inside) = inside else {
            return Err(Error::NotFound { what: format!("{} in the container", named(ep)) });
        };
        let wanted = self.wanted(net, ep)?;
        if was.interface != Some(interface(&wanted)) {
            return Err(Error::Options(format!(
                "{}: only the gateway of an attachment can be changed; detach it and attach it anew",
                named(ep)
            )));
        }
        inside.reroute(&was.gateways, &wanted.gateways)?;
        Ok(Attachment { gateways: wanted.gateways, ..was.clone() })
    }

    fn check(&self, net: &Network, ep: &Endpoint, was: &Attachment, ns: BorrowedFd<'_>) -> Result<()> {
        let mut faults = match parent(&mut Netlink::open()?, net) {
            Ok(parent) if parent.up => Vec::new(),
            Ok(parent) => vec![format!("the parent '{}' is down", parent.name)],
            Err(Error::NotFound { what }) => vec![format!("{what} is gone")],
            Err(error) => return Err(error),
        };
        let wanted = self.wanted(net, ep)?;
        let ours = self.ours(&mut Netlink::open_in(ns)?, net, ep, Some(was))?;
        let stands = |link: &Link| link.name == wanted.name.as_str() && link.mark() == Some(wanted.mark);
        match Inside::find(ns, &wanted.name)? {
            Some(mut inside) if ours.iter().any(stands) => faults.extend(inside.faults(&wanted)?),
            Some(_) => faults.push(format!("interface '{}' in the container is another one", wanted.name)),
            None => faults.push(format!("interface '{}' in the container is gone", wanted.name)),
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Error::Corrupt { what: named(ep), reason: faults.join("; ") })
    }

    /// Without the namespace there is nothing left to remove.
    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        ns: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let Some(ns) = ns else { return Ok(()) };
        match self.remove(net, ep, was, ns) {
            Err(error) if !matches!(error, Error::Incomplete { .. }) => {
                Err(Error::Incomplete { what: named(ep), failures: vec![error] })
            }
            removed => removed,
        }
    }

    /// The kernel deletes the interfaces with their namespaces, so none ever comes to the host's.
    fn list(&self) -> Result<Vec<Owned>> {
        Ok(Vec::new())
    }

    fn restore(&self) -> Result<Vec<HostChange>> {
        Ok(Vec::new())
    }
}
