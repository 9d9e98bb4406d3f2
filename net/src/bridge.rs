//! Containers on a bridge of the host's kernel, behind the host's own addresses.
//!
//! A network is a bridge with the gateways' addresses; an endpoint is a pair of veth links, one a port of the bridge,
//! the other in the container. The pair is made by one message that lets the inner link be born in the container's
//! namespace, since moving it there would cost 20 times as much. What gets through is the [`Firewall`]'s part.

mod attach;
mod check;
mod options;
mod place;
mod plan;
mod site;
mod stand;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use mica_core::network::{
    Addressing, Attachment, Endpoint, HostChange, Mark, NetCapabilities, Network, NetworkDriver, Owned,
    OwnerId, Raised,
};
use mica_core::options::{OptionMap, parse_network};
use mica_core::registry::NetworkEntry;
use mica_core::{Error, Result, Support};
use netlink_packet_route::link::InfoKind;

use crate::firewall::{Firewall, pick};
use crate::host::Host;
use crate::kept::Kept;
use crate::netlink::{Netlink, link};
use crate::setting;

const NAME: &str = "bridge";

/// The kernel's limit (`BR_MAX_PORTS`), less the number that it keeps for "none".
const MAX_PORTS: usize = 1023;

/// The driver, for a registry.
pub const BRIDGE: NetworkEntry = NetworkEntry {
    name: NAME,
    about: "a bridge on the host, shielded, with published ports",
    options: options::Options::DOCS,
    settings: Settings::DOCS,
    open,
};

mica_core::driver_options! {
    /// What all bridges of an engine have in common.
    struct Settings {
        /// The firewall that is written to: nft, iptables or none; without it the first that works here. With none
        /// the host's owner sees to forwarding and to all rules, and no port is published.
        firewall: Option<String> = None,
    }
}

fn open(owner: OwnerId, dir: &Path, settings: &OptionMap) -> Result<Box<dyn NetworkDriver>> {
    let settings: Settings = parse_network(NAME, settings, Settings::DOCS)?;
    let firewall = pick::open(settings.firewall.as_deref(), owner, dir)?;
    let shielded = firewall.shields();
    let behind_firewall = |what: &str| match shielded {
        true => Support::Yes,
        false => Support::no(format!("{what} take a firewall; choose nft or iptables")),
    };
    let capabilities = NetCapabilities {
        addressing: Addressing::Engine,
        ipv6: ipv6()?,
        ports: behind_firewall("published ports"),
        internal: behind_firewall("internal networks"),
        shielded,
        mac: true,
        live: true,
        max_endpoints: Some(MAX_PORTS),
    };
    Ok(Box::new(Bridge {
        owner,
        dir: dir.to_owned(),
        capabilities,
        firewall,
        host: Host::new(dir),
        netlink: Kept::default(),
    }))
}

fn ipv6() -> Result<Support> {
    Ok(match setting::read("ipv6/conf/all/disable_ipv6")?.as_deref() {
        Some("0") => Support::Yes,
        Some(_) => Support::no("net.ipv6.conf.all.disable_ipv6 is 1 on this host"),
        None => Support::no("the host's kernel has no IPv6, or it was started with ipv6.disable=1"),
    })
}

#[derive(Debug)]
struct Bridge {
    owner: OwnerId,
    dir: PathBuf,
    capabilities: NetCapabilities,
    firewall: Box<dyn Firewall>,
    host: Host,
    netlink: Kept<Netlink>,
}

impl Bridge {
    /// Holds off other processes and threads that would make or take away what networks share, until it is dropped.
    fn lock(&self) -> Result<File> {
        let path = self.dir.join("networks.lock");
        let doing = || format!("lock '{}'", path.display());
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(doing))?;
        file.lock().map_err(Error::io(doing))?;
        Ok(file)
    }
}

impl NetworkDriver for Bridge {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self) -> &NetCapabilities {
        &self.capabilities
    }

    fn status(&self) -> Result<Vec<(String, String)>> {
        let mut status = vec![("Firewall".to_owned(), self.firewall.name().to_owned())];
        let changes = self.host.changed()?.into_iter();
        status.extend(changes.map(|change| (change.setting, format!("{}, was {}", change.now, change.was))));
        Ok(status)
    }

    fn plan(&self, wanted: Network) -> Result<Network> {
        plan::plan(self, wanted)
    }

    fn up(&self, net: &Network) -> Result<Raised> {
        stand::up(self, net)
    }

    fn down(&self, net: &Network) -> Result<()> {
        stand::down(self, net)
    }

    fn attach(&self, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        attach::attach(self, net, ep, ns)
    }

    fn update(
        &self,
        net: &Network,
        was: &Attachment,
        ep: &Endpoint,
        ns: BorrowedFd<'_>,
    ) -> Result<Attachment> {
        attach::update(self, net, was, ep, ns)
    }

    fn check(&self, net: &Network, ep: &Endpoint, was: &Attachment, ns: BorrowedFd<'_>) -> Result<()> {
        check::check(self, net, ep, was, ns)
    }

    fn detach(
        &self,
        net: &Network,
        ep: &Endpoint,
        was: Option<&Attachment>,
        _ns: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        attach::detach(self, net, ep, was)
    }

    fn list(&self) -> Result<Vec<Owned>> {
        let mut netlink = Netlink::open()?;
        let mut owned = self.firewall.list()?;
        for link in link::links(&mut netlink)? {
            let Some(Mark { owner, scope }) = link.mark() else { continue };
            let of_bridges = matches!(link.kind, Some(InfoKind::Bridge | InfoKind::Veth));
            if of_bridges && owner == self.owner && !link::is_dying(&mut netlink, &link)? {
                owned.push(Owned { scope, object: format!("link '{}'", link.name) });
            }
        }
        Ok(owned)
    }

    fn restore(&self) -> Result<Vec<HostChange>> {
        let _alone = self.lock()?;
        let cleared = self.firewall.clear();
        match (cleared, self.host.restore()) {
            (Ok(()), restored) => restored,
            (Err(error), restored) => {
                let failures = std::iter::once(error).chain(restored.err()).collect();
                Err(Error::Incomplete { what: "what all bridges shared".to_owned(), failures })
            }
        }
    }
}

#[cfg(test)]
mod tests;
