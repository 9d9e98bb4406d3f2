//! What is let through to the endpoints of a bridge, and what is led to them.
//!
//! A firewall keeps what [`mica_core::network`] lists under "what must not get through", publishes ports, and masquerades. The
//! bridge driver has one, of several back ends; each keeps the whole promise by itself.
//!
//! Nothing is remembered but in the kernel, where everything bears the mark of the engine: [`Firewall::list`] finds it, and
//! whatever removes looks for it there.

mod conntrack;
mod iptables;
mod nfnetlink;
mod nft;
mod none;
pub(crate) mod pick;

use std::fmt::{self, Debug};
use std::net::IpAddr;

use mica_core::Result;
use mica_core::network::{
    Families, Family, InterfaceName, Mac, Mark, NetworkId, Owned, OwnerId, Port, PortRange, Protocol, Subnet,
};

/// What a firewall must know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) network: NetworkId,
    /// The bridge.
    pub(crate) bridge: InterfaceName,
    pub(crate) subnets: Vec<Subnet>,
    /// Nothing passes between it and anything but the host.
    pub(crate) internal: bool,
    /// Packets that leave for other networks bear the host's address.
    pub(crate) masquerade: bool,
    /// Its endpoints reach each other. Where they do not, the flags of their ports keep frames apart, and the firewall keeps
    /// packets apart that go by way of the host.
    pub(crate) icc: bool,
}

/// The group of links that a bridge is in: one for the internal networks of an engine, one for its others. A rule asks for it
/// at a fraction of what the look for a name in a set takes.
pub(crate) fn group(owner: OwnerId, internal: bool) -> u32 {
    let [a, b, c, d, ..] = *owner.as_bytes();
    // Everybody else's links are in group 0, or in one of the small numbers that people give.
    (u32::from_be_bytes([a, b, c, d]) | 1 << 31) & !1 | u32::from(internal)
}

/// What a firewall must know of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) mark: Mark,
    /// The port of the bridge.
    pub(crate) interface: InterfaceName,
    pub(crate) mac: Mac,
    /// All that it may use, but for the link-local one that follows from its hardware address.
    pub(crate) addresses: Vec<IpAddr>,
    /// What is published.
    pub(crate) ports: Vec<Port>,
    /// In which families: those in which the network is the gateway.
    pub(crate) published: Families,
}

/// Where a published port leads, in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lead {
    pub(crate) protocol: Protocol,
    /// The address of the host; `None`: every one of the family.
    pub(crate) at: Option<IpAddr>,
    pub(crate) host: PortRange,
    pub(crate) to: IpAddr,
    pub(crate) container: PortRange,
}

/// As people write a published port, such as `127.0.0.1:8080/tcp`.
impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(IpAddr::V6(at)) => write!(f, "[{at}]:")?,
            Some(IpAddr::V4(at)) => write!(f, "{at}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host, self.protocol)
    }
}

/// What has a number in an IP header.
pub(crate) trait Numbered: Sized {
    /// Every one.
    const ALL: [Self; 3];
    /// Its number.
    fn number(self) -> u8;
}

impl Numbered for Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    fn number(self) -> u8 {
        let number = match self {
            Self::Tcp => libc::IPPROTO_TCP,
            Self::Udp => libc::IPPROTO_UDP,
            Self::Sctp => libc::IPPROTO_SCTP,
        };
        number as u8
    }
}

impl Guarded {
    /// The published ports, each in every family in which it is reached.
    pub(crate) fn leads(&self, ground: &Ground) -> Vec<Lead> {
        let target = |family| {
            let inside = |ip: &&IpAddr| ground.subnets.iter().any(|subnet| subnet.contains(**ip));
            let target = self.addresses.iter().find(|ip| Family::of(**ip) == family && inside(ip));
            target.copied().filter(|_| self.published.has(family))
        };
        let targets = [target(Family::V4), target(Family::V6)];
        let leads = |port: &Port| {
            let (protocol, host, container) = (port.protocol(), port.host(), port.container());
            let wished = port.address();
            let meant = move |to: &IpAddr| wished.is_none_or(|at| at.is_ipv4() == to.is_ipv4());
            let at = wished.filter(|at| !at.is_unspecified());
            let to_lead = move |to| Lead { protocol, at, host, to, container };
            targets.into_iter().flatten().filter(meant).map(to_lead).collect::<Vec<_>>()
        };
        self.ports.iter().flat_map(leads).collect()
    }
}

/// A back end.
///
/// Each call is one transaction: on error nothing of it stands, unless it answers `Incomplete`. `lower`, `release` and `clear`
/// are idempotent, and find what is there without having been told.
pub(crate) trait Firewall: Debug + Send + Sync {
    /// For people, such as `nft`.
    fn name(&self) -> &'static str;
    /// Whether it keeps the promises: shields networks, keeps internal ones, publishes ports. One that does not must not be
    /// given a port, and nothing may be opened on its account (`route_localnet`).
    fn shields(&self) -> bool;
    /// Drops what the host would forward in these families between interfaces that no engine of ours has: the driver is about to
    /// turn forwarding on. Idempotent; where it stands it costs a look.
    fn close(&self, families: Families) -> Result<()>;
    /// Makes what all networks share and what this one needs, where it is missing, and answers whether anything was. Idempotent;
    /// where all stands it changes nothing. Endpoints that are guarded stay so.
    fn raise(&self, ground: &Ground) -> Result<bool>;
    /// Takes away what a network needed.
    fn lower(&self, network: NetworkId) -> Result<()>;
    /// Guards an endpoint and publishes its ports. Fails with `InUse` for a port that leads elsewhere already.
    fn guard(&self, ground: &Ground, endpoint: &Guarded) -> Result<()>;
    /// Publishes other ports; those that stay lose no connection. With the same ones on both sides it looks what is missing of the
    /// guard, because somebody flushed it, and adds that.
    fn publish(&self, ground: &Ground, was: &Guarded, now: &Guarded) -> Result<()>;
    /// Undoes `guard`; when it returns nothing leads to the endpoint, and the entries of its connections through published ports
    /// are gone. With `was` it looks for that alone, which is cheap; without, for all that bears the mark.
    fn release(&self, mark: &Mark, was: Option<(&Ground, &Guarded)>) -> Result<()>;
    /// What of these is missing or wrong, for people; nothing where all stands.
    fn missing(&self, ground: &Ground, endpoint: Option<&Guarded>) -> Result<Vec<String>>;
    /// Everything that bears this engine's mark.
    fn list(&self) -> Result<Vec<Owned>>;
    /// Which rule of the host's owner cuts a network off, such as a policy of a chain, and what would open it. Asked after
    /// `raise`, which puts an accept where that owner's firewall provides a place for it.
    fn forbidden(&self, ground: &Ground) -> Result<Option<String>>;
    /// Takes away what all networks shared. Every network was lowered.
    fn clear(&self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use mica_core::network::{EndpointId, OwnerId, Scope};

    use super::*;

    /// What leads where, of a port that is published in these families.
    fn leads(port: &str, published: Families) -> Vec<String> {
        let network = NetworkId::from_bytes([1; 16]);
        let endpoint = EndpointId::from_bytes([2; 16]);
        let ground = Ground {
            network,
            bridge: "mica0".parse().unwrap(),
            subnets: vec!["172.30.0.0/24".parse().unwrap(), "fd00:30::/64".parse().unwrap()],
            internal: false,
            masquerade: true,
            icc: true,
        };
        let guarded = Guarded {
            mark: Mark { owner: OwnerId::from_bytes([3; 8]), scope: Scope::Endpoint(network, endpoint) },
            interface: "micv0".parse().unwrap(),
            mac: Mac::of_endpoint(&endpoint),
            addresses: ["169.254.0.9", "172.30.0.9", "fe80::9", "fd00:30::9"]
                .map(|ip| ip.parse().unwrap())
                .into(),
            ports: vec![port.parse().unwrap()],
            published,
        };
        guarded
            .leads(&ground)
            .iter()
            .map(|lead| format!("{lead} to {} {}", lead.to, lead.container))
            .collect()
    }

    #[test]
    fn a_port_leads_to_the_address_of_each_family_in_which_it_is_published() {
        let (four, six) = (Families { v4: true, v6: false }, Families { v4: false, v6: true });
        let both = Families { v4: true, v6: true };
        for (port, published, expected) in [
            ("8080:80", both, &["8080/tcp to 172.30.0.9 80", "8080/tcp to fd00:30::9 80"][..]),
            ("8080:80", four, &["8080/tcp to 172.30.0.9 80"]),
            ("8080:80", Families::NONE, &[]),
            ("0.0.0.0:8080:80/udp", both, &["8080/udp to 172.30.0.9 80"]),
            ("[::]:80-81:90-91", both, &["80-81/tcp to fd00:30::9 90-91"]),
            ("127.0.0.1:8080:80", both, &["127.0.0.1:8080/tcp to 172.30.0.9 80"]),
            ("127.0.0.1:8080:80", six, &[]),
            ("[fd00::1]:8080:80", six, &["[fd00::1]:8080/tcp to fd00:30::9 80"]),
        ] {
            assert_eq!(leads(port, published), expected, "{port} {published:?}");
        }
    }
}
