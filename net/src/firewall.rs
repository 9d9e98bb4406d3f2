//! What is let through to the endpoints of a bridge, and what is led to them.
//!
//! A firewall keeps what [`mica_core::network`] lists under "what must not get through", publishes ports, and masquerades. The
//! bridge driver has one, of several back ends; each keeps the whole promise by itself.
//!
//! Nothing is remembered but in the kernel, where everything bears the mark of the engine: [`Firewall::list`] finds it, and
//! whatever removes looks for it there.

use std::fmt::Debug;

use mica_core::network::{InterfaceName, Mac, Mark, NetworkId, Owned, Port, Subnet};
use mica_core::Result;
use std::net::IpAddr;

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
}

/// What a firewall must know of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) mark: Mark,
    /// The port of the bridge.
    pub(crate) interface: InterfaceName,
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpAddr>,
    /// What is published, to the address of the port's family.
    pub(crate) ports: Vec<Port>,
}

/// A back end.
///
/// Each call is one transaction: on error nothing of it stands, unless it answers `Incomplete`. `lower`, `release` and `clear`
/// are idempotent, and find what is there without having been told.
pub(crate) trait Firewall: Debug + Send + Sync {
    /// For people, such as `nft`.
    fn name(&self) -> &'static str;
    /// Makes what all networks share and what this one needs, where it is missing. Idempotent; where all stands it changes
    /// nothing. Endpoints that are guarded stay so.
    fn raise(&self, ground: &Ground) -> Result<()>;
    /// Takes away what a network needed.
    fn lower(&self, network: NetworkId) -> Result<()>;
    /// Guards an endpoint and publishes its ports. Fails with `InUse` for a port that leads elsewhere already.
    fn guard(&self, ground: &Ground, endpoint: &Guarded) -> Result<()>;
    /// Publishes other ports; those that stay lose no connection.
    fn publish(&self, ground: &Ground, was: &Guarded, now: &Guarded) -> Result<()>;
    /// Undoes `guard`; when it returns nothing leads to the endpoint. Entries of connections of its UDP ports are gone, too.
    fn release(&self, mark: &Mark) -> Result<()>;
    /// What of these is missing or wrong, for people; nothing where all stands.
    fn missing(&self, ground: &Ground, endpoint: Option<&Guarded>) -> Result<Vec<String>>;
    /// Everything that bears this engine's mark.
    fn list(&self) -> Result<Vec<Owned>>;
    /// Which rule of the host's owner cuts a network off, such as a policy of a chain, and what would open it.
    fn forbidden(&self, ground: &Ground) -> Result<Option<String>>;
    /// Takes away what all networks shared. Every network was lowered.
    fn clear(&self) -> Result<()>;
}
