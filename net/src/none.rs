//! The driver `none`: a container that has `lo` and nothing else.

use std::os::fd::BorrowedFd;
use std::path::Path;

use mica_core::network::{
    Addressing, Attachment, Endpoint, Families, HostChange, NetCapabilities, Network, NetworkDriver, Owned,
    OwnerId, Raised,
};
use mica_core::{Error, NetworkEntry, OptionMap, Result, Support, options};

use crate::refuse::refuse;

const NAME: &str = "none";

/// What the registry knows of it.
pub const NONE: NetworkEntry = NetworkEntry {
    name: NAME,
    about: "no network but the container's own loopback",
    options: Options::DOCS,
    settings: Options::DOCS,
    open,
};

mica_core::driver_options! {
    /// There are none, of a network or of the driver.
    struct Options {}
}

fn open(_: OwnerId, _: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>> {
    let Options {} = options::parse_network(NAME, settings, Options::DOCS)?;
    let nothing = || Support::no("a network of this driver has no interfaces");
    let capabilities = NetCapabilities {
        addressing: Addressing::None,
        ipv6: nothing(),
        ports: nothing(),
        internal: nothing(),
        shielded: true,
        mac: false,
        live: false,
        max_endpoints: None,
    };
    Ok(Box::new(Nothing { capabilities }))
}

/// It makes nothing, so every teardown has been done already.
#[derive(Debug)]
struct Nothing {
    capabilities: NetCapabilities,
}

impl NetworkDriver for Nothing {
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
        let Options {} = options::parse_network(NAME, &wanted.options, Options::DOCS)?;
        refuse(NAME, !wanted.pools.is_empty(), "addresses")?;
        refuse(NAME, wanted.internal, "internal")?;
        if wanted.interface.is_some() || wanted.mtu.is_some() {
            let why = "a network of driver 'none' has no interfaces, so it takes no interface and no MTU";
            return Err(Error::Options(why.to_owned()));
        }
        Ok(Network { routes: Families::NONE, ..wanted })
    }

    fn up(&self, _: &Network) -> Result<Raised> {
        Ok(Raised::default())
    }

    fn down(&self, _: &Network) -> Result<()> {
        Ok(())
    }

    fn attach(&self, _: &Network, ep: &Endpoint, _: BorrowedFd<'_>) -> Result<Attachment> {
        let Options {} = options::parse_network(NAME, &ep.options, Options::DOCS)?;
        refuse(NAME, !ep.addresses.is_empty(), "addresses")?;
        refuse(NAME, ep.mac.is_some(), "mac")?;
        refuse(NAME, !ep.ports.is_empty(), "ports")?;
        refuse(NAME, ep.gateway != Families::NONE, "gateways")?;
        Ok(Attachment::default())
    }

    fn update(&self, _: &Network, _: &Attachment, _: &Endpoint, _: BorrowedFd<'_>) -> Result<Attachment> {
        Err(Error::Unsupported { driver: NAME.to_owned(), op: "live" })
    }

    fn check(&self, _: &Network, _: &Endpoint, _: &Attachment, _: BorrowedFd<'_>) -> Result<()> {
        Ok(())
    }

    fn detach(
        &self,
        _: &Network,
        _: &Endpoint,
        _: Option<&Attachment>,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        Ok(())
    }

    fn list(&self) -> Result<Vec<Owned>> {
        Ok(Vec::new())
    }

    fn restore(&self) -> Result<Vec<HostChange>> {
        Ok(Vec::new())
    }
}
