//! What the record of a network means to this driver.

use mica_core::network::{
    Address, Families, Family, InterfaceName, Mac, Mark, Network, OwnerId, Pool, Prefix, Scope,
};
use mica_core::{Error, Result};
use netlink_packet_route::link::InfoKind;

use super::options::Options;
use crate::firewall::{self, Ground};
use crate::netlink::link::Link;

/// The bridge of a network that has no name of its own.
pub(super) const BRIDGE: Prefix = Prefix::new(b"mica");

/// A network that was planned.
pub(super) struct Site {
    pub(super) bridge: InterfaceName,
    pub(super) mark: Mark,
    /// The bridge's own, so that it does not change with those of its ports.
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    pub(super) group: u32,
    /// The bridge's own, which the containers' default routes lead to.
    pub(super) gateways: Vec<Address>,
    pub(super) routes: Families,
    pub(super) ground: Ground,
}

impl Site {
    /// Fails with `Options` for a network that was not planned.
    pub(super) fn of(owner: OwnerId, net: &Network) -> Result<Self> {
        let options = Options::read(&net.options)?;
        let (Some(bridge), Some(mtu)) = (net.interface.clone(), net.mtu) else {
            let name = &net.name;
            return Err(Error::Options(format!("network '{name}' has no bridge; it must be planned first")));
        };
        let gateway = |pool: &Pool| pool.gateway.map(|ip| pool.subnet.address(ip));
        let gateways = net.pools.iter().filter_map(gateway).collect::<Result<_>>()?;
        let [a, b, c, d, e, ..] = *net.id.as_bytes();
        let ground = Ground {
            network: net.id,
            bridge: bridge.clone(),
            subnets: net.pools.iter().map(|pool| pool.subnet).collect(),
            internal: net.internal,
            masquerade: options.masquerade,
            icc: options.icc,
        };
        Ok(Self {
            bridge,
            mark: Mark { owner, scope: Scope::Network(net.id) },
            mac: Mac::new([0x02, a, b, c, d, e])?,
            mtu,
            group: firewall::group(owner, net.internal),
            gateways,
            routes: net.routes,
            ground,
        })
    }

    /// The network has addresses of this family.
    fn has(&self, family: Family) -> bool {
        self.ground.subnets.iter().any(|subnet| subnet.family() == family)
    }

    /// This link is the network's bridge.
    pub(super) fn is(&self, link: &Link) -> bool {
        link.kind == Some(InfoKind::Bridge) && link.mark() == Some(self.mark)
    }

    /// Settings of the bridge. No router advertisement of a container tells the host anything (CVE-2020-10749). Its
    /// link-local address is not looked for on other hosts, because until that is done, a second later, the host
    /// could not ask for its neighbours. Without a subnet of IPv6 the bridge does not speak it.
    pub(super) fn settings(&self) -> [(String, &'static str); 3] {
        let setting = |name| format!("ipv6/conf/{}/{name}", self.bridge);
        let ipv6 = if self.has(Family::V6) { "0" } else { "1" };
        [(setting("accept_ra"), "0"), (setting("accept_dad"), "0"), (setting("disable_ipv6"), ipv6)]
    }

    /// What leads from 127.0.0.0/8 to a published port. It opens that block of the host to the bridge
    /// (CVE-2020-8558), unless a firewall drops what comes from there.
    pub(super) fn route_localnet(&self) -> (String, &'static str) {
        (format!("ipv4/conf/{}/route_localnet", self.bridge), "1")
    }

    pub(super) fn not_up(&self) -> Error {
        Error::NotFound { what: format!("bridge '{}' of the network", self.bridge) }
    }
}
