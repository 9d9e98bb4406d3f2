//! What the record of an endpoint means to this driver.

use mica_core::network::{
    Attachment, Endpoint, EndpointId, Families, Family, Interface, InterfaceName, Mac, Mark, Network, Prefix,
    Scope,
};
use mica_core::{Error, Result};

use super::site::Site;
use super::{Bridge, NAME};
use crate::firewall::Guarded;
use crate::inside::Wanted;
use crate::{endpoint, refuse};

/// The end of a pair that is a port of the bridge.
const VETH: Prefix = Prefix::new(b"mive");

/// The name of the link that is the endpoint's port of the bridge.
pub(super) fn veth(id: &EndpointId) -> InterfaceName {
    InterfaceName::of_endpoint(VETH, id)
}

/// An endpoint of a network that was planned.
pub(super) struct Place {
    pub(super) mark: Mark,
    pub(super) veth: InterfaceName,
    pub(super) wanted: Wanted,
    pub(super) guarded: Guarded,
}

impl Place {
    /// Fails with `Options` for what does not fit the network, `Unsupported` for what is not claimed.
    pub(super) fn of(driver: &Bridge, site: &Site, net: &Network, ep: &Endpoint) -> Result<Self> {
        refuse(driver, net, ep)?;
        let mark = Mark { owner: driver.owner, scope: Scope::Endpoint(net.id, ep.id) };
        let veth = veth(&ep.id);
        let mac = ep.mac.unwrap_or_else(|| Mac::of_endpoint(&ep.id));
        let addresses = endpoint::addresses(net, ep)?;
        let gateways = endpoint::gateways(net, ep)?;
        let name = ep.interface.clone();
        Ok(Self {
            mark,
            veth: veth.clone(),
            wanted: Wanted { name, mark, mac, mtu: site.mtu, addresses, gateways },
            guarded: Guarded {
                mark,
                interface: veth,
                mac,
                addresses: ep.addresses.clone(),
                ports: ep.ports.clone(),
                published: ep.gateway,
            },
        })
    }

    /// As it was when this was answered.
    pub(super) fn guarded_before(&self, was: &Attachment) -> Guarded {
        let has = |family| was.gateways.iter().any(|gateway| Family::of(*gateway) == family);
        let published = Families { v4: has(Family::V4), v6: has(Family::V6) };
        Guarded { ports: was.ports.clone(), published, ..self.guarded.clone() }
    }

    pub(super) fn attachment(self) -> Attachment {
        let Wanted { name, mac, mtu, addresses, gateways, .. } = self.wanted;
        Attachment {
            interface: Some(Interface { name, mac, mtu, addresses }),
            gateways,
            ports: self.guarded.ports,
            ..Attachment::default()
        }
    }
}

fn refuse(driver: &Bridge, net: &Network, ep: &Endpoint) -> Result<()> {
    if let Some(name) = ep.options.keys().next() {
        let name = name.escape_debug();
        return Err(Error::Options(format!("unknown endpoint option '{name}'; a bridge has none")));
    }
    refuse::refuse(NAME, !ep.ports.is_empty() && !driver.capabilities.ports.is_yes(), "ports")?;
    if let Some(pool) = net.pools.iter().find(|pool| ep.addresses.iter().any(|ip| pool.gateway == Some(*ip)))
    {
        return Err(Error::Options(format!(
            "the gateway's address in {} cannot be an endpoint's, too; take another one",
            pool.subnet
        )));
    }
    Ok(())
}
