//! The network contract: everything that a network driver promises, and everything that it may rely on.
//!
//! # The model
//!
//! A **network** is a set of endpoints that reach each other. An **endpoint** is one container's place in one
//! network: an interface inside the container's network namespace, its addresses, its published ports. A container
//! has one in each network that it is connected to. An **attachment** is what a driver made of an endpoint.
//!
//! A driver **turns these records into kernel objects, and takes the objects away again**. It keeps no record itself:
//! what should exist is written down by the engine before it is made, what [`attach`](NetworkDriver::attach) answered
//! is stored by the engine and handed back, and what does exist the kernel knows. (libnetwork's drivers kept
//! databases of their own; a crash between the kernel's state and theirs leaked links until the bridge was full:
//! docker/libnetwork#1850.)
//!
//! # The life of a network, and of an endpoint
//!
//! ```text
//! wanted ── plan ──► recorded ── up ──► it stands ── down ──► removed from the records
//!
//! lease, ports, record ── attach ──► in use ── detach ──► record, ports, lease given back
//!                                    ▲     │
//!                                    └─────┘ update: ports, gateway
//! ```
//!
//! *Making a network.* The engine fills in what it decides (an id, subnets that nobody uses), calls `plan`, and
//! records what it answers. Nothing is in the kernel yet.
//!
//! *Starting a container.* Its supervisor makes the network namespace and brings `lo` up in it. For each of its
//! networks the engine leases addresses, the supervisor reserves the host's ports by binding them, and the endpoint
//! is recorded: from here on a crash is repairable. Then `up`, then `attach`; the attachment is recorded, and the
//! process starts.
//!
//! *Ending it.* The process has ended. `detach` for each network, the latest first; after each success, and not
//! before, the record goes, then the ports, then the lease. At last the supervisor closes the namespace.
//!
//! *After a crash.* The next command takes the lock of each endpoint whose supervisor is gone and calls `detach`
//! without a namespace, and without an attachment where none was recorded. Then it calls `list`, and detaches and
//! takes down what has no record.
//!
//! # Who does what
//!
//! | | the driver | the engine, or the container's supervisor |
//! |---|---|---|
//! | `host`, `container:ID` | never asked | joins the namespace; no driver runs |
//! | the namespace | enters it during a call, keeps no descriptor of it | makes it, holds it, brings `lo` up, closes it |
//! | links, routes, neighbours | all of them, inside and out | none |
//! | firewall, published ports | all of it, where `ports` is claimed | none |
//! | host ports | never binds one | reserves each by a bound socket until `detach` has succeeded; listens on `[::1]` |
//! | subnets, addresses | as [`Addressing`] says | as [`Addressing`] says |
//! | names | none: no DNS, no `/etc/hosts` | all, from the addresses in the attachment |
//! | records | none | all: the endpoint before `attach`, the attachment after it |
//! | locks | guards what its networks share, such as a table of rules | one call about an endpoint at a time; `down` alone |
//!
//! # Namespaces
//!
//! *The host* is the network namespace that the calling thread is in, and not that of process 1: a whole host can be
//! played inside a namespace. A thread that returns from a call is in the namespace in which it entered it, after an
//! error too. The safe way is a thread that enters the other one, does its work and ends; who goes there and back on the
//! calling thread makes sure first that it may come back.
//!
//! The container's namespace may belong to a user namespace, whose root owns the objects in it. It is empty but for
//! `lo`, or holds endpoints of other networks, which a driver leaves alone, and anything a container's own root put
//! there, which a driver does not trust.
//!
//! An interface that is *born* in its namespace appears at once, and vanishes with it; one that is moved there waits
//! for the kernel's grace periods, 10 to 20 ms, and leaks when the mover dies half-way. Every descriptor is
//! close-on-exec (a namespace that an inherited descriptor held open: moby#41136).
//!
//! # Names and marks
//!
//! The name of each interface on the host derives from an id, by [`InterfaceName::of_endpoint`] or
//! [`of_network`](InterfaceName::of_network), so `detach` finds what a half-finished `attach` made without having
//! been told. Everything else that outlives a call (rule, element of a map, qdisc, route) is found by its address,
//! its ports or its [`Mark`].
//!
//! A driver is opened with the [`OwnerId`] of its engine and puts a [`Mark`] on all that it makes and that can bear
//! one. It deletes nothing that bears another's mark, even under a name that it would have chosen: two engines share
//! a kernel, and the digits in a name are fewer than an id's. `list` names all that bears its own.
//!
//! No text that a user chose becomes part of a rule, of a command line or of an object's name: not a network's name,
//! not an alias, not an option that was not parsed first.
//!
//! # Addresses
//!
//! [`Addressing::Engine`]: the engine chose the subnets against the host's routing table and its other networks, and
//! leases each address; `attach` gives the interface exactly these. An address that was given back is handed out
//! again as late as possible, because a closed namespace takes a moment to vanish. [`Addressing::Driver`] (CNI,
//! DHCP): the endpoint holds wishes or nothing, the attachment holds what it got, `detach` returns it.
//! [`Addressing::None`]: there are none.
//!
//! # The gateway
//!
//! For each family one of a container's networks is the gateway, and [`Endpoint::gateway`] says whether this one is:
//! its default route and the ports of that family go there, and nowhere else. The engine [elects] it. When a network
//! is connected or disconnected and the election ends differently, the engine calls `update` for the network that
//! loses the part, then for the one that gets it, so there are never two default routes, and for a moment there is
//! none. A disconnected network is not updated first: its `detach` takes route and ports along.
//!
//! # Ports
//!
//! A driver that claims [`ports`](NetCapabilities::ports) makes each [`Port`] reachable from other hosts, from this
//! host, from containers of other networks and from the container itself, at the host's addresses that it names and
//! no others, with the client's address preserved for clients beyond the host. `127.0.0.1` is reached from this host
//! and from nowhere else (by other hosts: moby#41872; from a container by way of `route_localnet`: CVE-2020-8558).
//! `::1` has no path through the kernel: such a port is never given to a driver.
//!
//! # What must not get through
//!
//! A network stands behind the host, or on a network that is there already, whose neighbours its endpoints are
//! (macvlan); [`NetCapabilities::shielded`] says which. A shielded one lets none of this through, in both families
//! and whatever the host's own settings are, unless an option of the network says otherwise:
//!
//! * from one network to another, but to published ports;
//! * from outside the host to a container's address, but to published ports;
//! * in and out of an [internal](Network::internal) network, but from the host itself;
//! * a frame with another endpoint's hardware address or network address as its source;
//! * a router advertisement, from a container to anybody (CVE-2020-10749).
//!
//! The inner interface heeds no router advertisement in any network, and an internal one is cut off in any.
//!
//! A rule of the host's owner that forbids more is never overruled, nor is a rule of theirs deleted. Where such a
//! rule cuts a network off, `up` fails with [`Error::Unavailable`], naming the chain and what would open it.
//!
//! # The host's own settings
//!
//! A driver changes a setting that is not its own object's (such as `net.ipv4.ip_forward`) only when a network needs
//! it, and says so in the answer of `up`. It notes the old value in its directory first, closes what the change would
//! open beyond its own networks, and keeps what it would take from the host (where IPv6 is forwarded the kernel heeds
//! router advertisements only with `accept_ra` at 2: kernel documentation, ip-sysctl).
//! [`restore`](NetworkDriver::restore) puts it back.
//!
//! # Errors, and what they leave
//!
//! A call that fails leaves things as they were before it, but for `down` and `detach`, which remove what they can,
//! go on after each failure, and name them all in [`Error::Incomplete`]; calling them again tries the rest. A call
//! that fails half-way and cannot undo its own work answers `Incomplete` too, and then only a `detach` (after
//! `attach`, `update`) or a `down` (after `up`) helps. A crash at any moment leaves what `detach` and `down` remove.
//! Any call may return [`Error::Driver`]; each method names what else it returns.
//!
//! # What a driver may rely on
//!
//! Calls about **different** endpoints come from many threads and processes at once, and so do `up`, `list` and
//! `check`. Calls about **one** endpoint come one at a time. `down` comes alone: no other call about its network
//! runs, and none of its endpoints is recorded. Ids are unique for good; addresses, ports and hardware addresses are
//! unique among the recorded endpoints of one engine. An endpoint that is handed over was recorded. `net` is what
//! `plan` answered once, unchanged.
//!
//! # CNI
//!
//! The contract maps onto CNI's verbs, both ways: ADD is `attach`, DEL `detach`, CHECK `check`, GC `list` and a
//! `detach` of what is not valid, STATUS the driver's opening. [`Attachment::data`] carries a plugin's result to the
//! next verb.
//!
//! # Units
//!
//! An MTU is the size of the largest IP packet in bytes, its header included and Ethernet's not, as `ip link` shows
//! it. Prefix lengths are bits. Ports are numbers, in no byte order. Nothing here has a time.
//!
//! [elects]: elect

mod address;
mod gateway;
mod id;
mod interface;
mod port;

use std::fmt::{self, Debug};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::Error;
use crate::{OptionMap, Result, Support};

pub use address::{Address, Families, Family, Subnet};
pub use gateway::elect;
pub use id::{EndpointId, Mark, NetworkId, OwnerId, Scope};
pub use interface::{InterfaceName, Mac, Prefix};
pub use port::{Port, PortRange, Protocol, Publish};

/// A back end that connects containers. The module's text is part of this contract.
///
/// There are no default methods: a wrapper that forgets one does not compile. What a driver cannot do it refuses with
/// [`Error::Unsupported`], exactly where its [`NetCapabilities`] do not claim it.
pub trait NetworkDriver: Debug + Send + Sync {
    /// The name under which it is registered, such as `bridge`. It is written into the engine's records.
    fn name(&self) -> &str;

    /// What this driver can do on this host, with these settings. Probed once, when it was opened; the answer never
    /// changes while it is open.
    fn capabilities(&self) -> &NetCapabilities;

    /// What an operator wants to know about it now, as names and values for `mica info`: which firewall it writes to,
    /// which settings of the host it changed. For people only; nobody parses it.
    fn status(&self) -> Result<Vec<(String, String)>>;

    /// Checks a network that is wanted, and completes it: the options with their defaults filled in, the gateways,
    /// the name of its interface, [`Network::routes`]. It looks at the host and touches nothing. What it answers is
    /// recorded, and passed to every later call; a plan of a plan changes nothing.
    ///
    /// Fails with `Options` for an option or a subnet that cannot be used, naming what would, `Unsupported` for what
    /// is not claimed, `InUse` for an interface that another network of the host has.
    fn plan(&self, wanted: Network) -> Result<Network>;

    /// Makes what all endpoints of the network share: the bridge, its addresses, the rules. Called before each
    /// `attach`, and to repair a network whose rules somebody flushed: it looks, and mends what is missing.
    /// Idempotent; where all stands it costs a look and changes nothing. Endpoints that are attached keep working.
    ///
    /// Answers what it did. Where that was to [rebuild](Raised::rebuilt) the network, the engine has each endpoint of
    /// it mended that is attached, by [`update`](NetworkDriver::update) with the same endpoint.
    ///
    /// Fails with `Unavailable` where the host lacks something or forbids too much, `AlreadyExists` for an object in
    /// the way that does not bear the network's mark, `InUse` for a subnet that another interface of the host has.
    fn up(&self, net: &Network) -> Result<Raised>;

    /// Takes away what `up` made, and what a crashed `up` began. No endpoint of it is recorded. Idempotent; a network
    /// of which nothing is there is no error.
    ///
    /// Fails with `Incomplete`.
    fn down(&self, net: &Network) -> Result<()>;

    /// Connects the namespace `ns` to the network, which is up: the interface with its name, addresses, routes and
    /// MTU, and where this is the gateway the default route and the ports, in this order, so that the first packet in
    /// finds a way out. Neighbours know the address when it returns.
    ///
    /// On error it leaves nothing, inside or out. It does not wait for what the kernel finishes by itself, such as
    /// the detection of duplicate addresses.
    ///
    /// Fails with `AlreadyExists` for an interface name that `ns` has already and for an endpoint that is attached,
    /// `NotFound` for a network that is not up, `InUse` for a port that something on the host keeps it from
    /// publishing, `Options` for an address that is not in the network, `Unsupported` for what is not claimed, `Full`
    /// beyond [`NetCapabilities::max_endpoints`].
    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment>;

    /// Changes a live attachment to what `ep` now says of its ports and its gateway. Everything else in `ep` is as it
    /// was. What stays published loses no connection. Connections of the container go on where their path does.
    ///
    /// An update to what `was` says mends: what somebody took away of the endpoint outside of its container is made
    /// again.
    ///
    /// On error the attachment is what `was` says.
    ///
    /// Fails with `Unsupported` where [`NetCapabilities::live`] is not claimed, `InUse` for a port, `Options` for any
    /// other change, `NotFound` for an endpoint that is not attached.
    fn update(
        &self,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment>;

    /// Compares what is in the kernel with what should be, for this endpoint and for what its network stands on.
    /// Touches nothing.
    ///
    /// Fails with `Corrupt`, whose reason names everything that is missing or wrong, not only the first.
    fn check(&self, net: &Network, ep: &Endpoint, was: &Attachment, ns: BorrowedFd<'_>) -> Result<()>;

    /// Takes the endpoint away: the reverse of `attach`, in the reverse order, so that no port leads nowhere while
    /// its target goes. When it returns nothing leads to the endpoint's addresses and ports, and both can be given to
    /// another; the kernel may still be at clearing the link away.
    ///
    /// It works whatever is left. `was` is `None` when `attach` never answered, and then everything that `attach`
    /// could have made is looked for, by name and by mark; an [unrecorded](Endpoint::unrecorded) endpoint is found so
    /// too. `ns` is `None` when the namespace is gone or cannot be reached, and all that is outside of it is removed.
    /// A live `ns` is left as it was before `attach`. Idempotent: what is gone already is no error.
    ///
    /// Fails with `Incomplete`; the record, the lease and the ports are kept then, and it is called again.
    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        ns: Option<BorrowedFd<'_>>,
    ) -> Result<()>;

    /// Everything in the host's kernel that bears this engine's mark, in no order, so that what no record names can
    /// be found. Each object has an entry.
    fn list(&self) -> Result<Vec<Owned>>;

    /// Takes away what all networks of the driver shared, and puts back the host's own settings that it changed,
    /// where they still have the value that it gave them. Every network of the driver is down. Idempotent.
    ///
    /// Answers which settings it changed, for people.
    ///
    /// Fails with `Incomplete`.
    fn restore(&self) -> Result<Vec<HostChange>>;
}

/// A network, as the engine records it beside the name of its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name in the kernel's objects and in the records.
    pub id: NetworkId,
    /// Its name for people. For messages only; nothing derives from it.
    pub name: String,
    /// The interface of the host that it stands on: the bridge, the parent of a macvlan. Wished for, or given by
    /// `plan`.
    pub interface: Option<InterfaceName>,
    /// Where its addresses come from, at most one pool a family. Empty where [`Addressing`] is not the engine's and
    /// nothing was wished for.
    pub pools: Vec<Pool>,
    /// Its endpoints reach each other and the host, and nothing else.
    pub internal: bool,
    /// In which families it can be a container's gateway. Given by `plan`; never for an internal network.
    pub routes: Families,
    /// The MTU of its interfaces. Wished for, or given by `plan`.
    pub mtu: Option<u32>,
    /// The host's address at which it publishes ports that name none, where it is the gateway of IPv4; `None`: all of the
    /// host's. Wished for, or given by `plan`. The engine sees to it: it puts the address into each such port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Ipv4Addr>,
    /// The driver's own options. Those of a record were parsed by `plan`.
    pub options: OptionMap,
}

impl Network {
    /// A network of which no record is left, for `down`, and for `detach` of its endpoints.
    pub fn unrecorded(id: NetworkId) -> Self {
        Self {
            id,
            name: id.to_string(),
            interface: None,
            pools: Vec::new(),
            internal: false,
            routes: Families::NONE,
            mtu: None,
            binding: None,
            options: OptionMap::new(),
        }
    }
}

/// Addresses of one family in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// All addresses that are reached directly.
    pub subnet: Subnet,
    /// The router's. A driver that makes the router gives it to its interface on the host; `plan` chooses one where
    /// it is missing and needed.
    pub gateway: Option<IpAddr>,
    /// The part of the subnet that leases come from, where it is not all of it.
    pub range: Option<Subnet>,
    /// Addresses that are never leased, because something else has them.
    pub reserved: Vec<IpAddr>,
}

/// A container's place in a network, as the engine records it before `attach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Its name in the kernel's objects and in the records.
    pub id: EndpointId,
    /// The name of the interface inside, such as `eth0`.
    pub interface: InterfaceName,
    /// Its addresses: leased ones of the network's pools, with their subnet's prefix, and link-local ones, with 16
    /// bits in IPv4 and 64 in IPv6. Wishes where the driver leases.
    pub addresses: Vec<IpAddr>,
    /// The hardware address that was wished for; else the driver takes [`Mac::of_endpoint`], where it has a choice.
    pub mac: Option<Mac>,
    /// In which families this network is the container's gateway.
    pub gateway: Families,
    /// What is published here, in the families of `gateway`. Reserved on the host; never at `::1`.
    pub ports: Vec<Port>,
    /// The driver's own options for this endpoint.
    pub options: OptionMap,
}

impl Endpoint {
    /// An endpoint of which no record is left, for `detach` without a namespace. All but the id is made up.
    pub fn unrecorded(id: EndpointId) -> Self {
        Self {
            id,
            interface: InterfaceName::inner(0),
            addresses: Vec::new(),
            mac: None,
            gateway: Families::NONE,
            ports: Vec::new(),
            options: OptionMap::new(),
        }
    }
}

/// What a driver made of an endpoint, as the engine records it after `attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "what is not recorded cannot be handed back to `detach`"]
pub struct Attachment {
    /// The interface inside; `None` for a driver that makes none.
    pub interface: Option<Interface>,
    /// The default routes that lead through this network, at most one a family.
    pub gateways: Vec<IpAddr>,
    /// Servers of names that the network offers, the best first.
    pub resolvers: Vec<IpAddr>,
    /// What is published.
    pub ports: Vec<Port>,
    /// What the driver wants to be told again. Nobody else reads it; a later version of the driver may have to.
    pub data: String,
}

/// An interface inside a container's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name.
    pub name: InterfaceName,
    /// Its hardware address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses, but for the link-local one that the kernel gives it.
    pub addresses: Vec<Address>,
}

/// An object in the kernel that bears this engine's mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owned {
    /// What it is part of.
    pub scope: Scope,
    /// What it is, for people, such as `link 'veth5e5e5e5e5e5'`.
    pub object: String,
}

/// What [`NetworkDriver::up`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// What it changed of the host's own settings, for people.
    pub host: Vec<HostChange>,
    /// What endpoints share was not there, or not whole: this is the first time, or somebody flushed the rules. What
    /// went along may have been an endpoint's own. It is told once, to whoever's call made it.
    pub rebuilt: bool,
}

/// A setting of the host that a driver changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChange {
    /// Its name, as `sysctl` takes it.
    pub setting: String,
    /// What it was.
    pub was: String,
    /// What it is now.
    pub now: String,
}

impl fmt::Display for HostChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, was, now } = self;
        write!(f, "changed {setting} of the host from {was} to {now}")
    }
}

/// What a driver can do. One that is not claimed must answer as its line says. Nobody asks for a driver's name
/// instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetCapabilities {
    /// Who leases addresses.
    pub addressing: Addressing,
    /// IPv6 works; else `plan` answers `Unsupported` for a pool of that family.
    pub ipv6: Support,
    /// Publishes [`Endpoint::ports`]; else `attach` answers `Unsupported` for an endpoint that has any.
    pub ports: Support,
    /// Keeps [`Network::internal`]; else `plan` answers `Unsupported`.
    pub internal: Support,
    /// Keeps out what the module lists under "what must not get through"; else an endpoint is as exposed as any other
    /// host of the network that it stands on.
    pub shielded: bool,
    /// Gives an interface the [`Endpoint::mac`] that was wished for; else `attach` answers `Unsupported`.
    pub mac: bool,
    /// Can [`NetworkDriver::update`]; else it answers `Unsupported`, and a change takes a detach and an attach.
    pub live: bool,
    /// The most endpoints of one network; `attach` answers `Full` beyond it. `None`: no limit of its own. (1023 ports
    /// for a bridge of the kernel.)
    pub max_endpoints: Option<usize>,
}

/// Who leases the addresses of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addressing {
    /// There are none: every wish for one answers `Unsupported`.
    None,
    /// The engine, out of [`Network::pools`]. The driver gives the interface exactly what the endpoint says.
    Engine,
    /// The driver, which answers them in the attachment and takes them back in `detach`.
    Driver {
        /// It gives the addresses that the endpoint wishes for, or fails with `InUse`; else a wish answers
        /// `Unsupported`.
        wishes: bool,
    },
}

#[cfg(test)]
mod tests;
