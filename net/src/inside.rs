//! An interface inside a container's network namespace.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use mica_core::network::{Address, Family, InterfaceName, Mac, Mark};
use mica_core::{Error, Result};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute,
};
use rtnetlink::LinkUnspec;
use rustix::io::Errno;

use crate::netlink::{Answer, Netlink, Refused, Request, address, link, route};
use crate::{namespace, setting};

/// What an interface is to be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: InterfaceName,
    pub(crate) mark: Mark,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<Address>,
    /// Where its default routes lead, at most one a family.
    pub(crate) gateways: Vec<IpAddr>,
}

impl Wanted {
    fn ipv6(&self) -> bool {
        self.addresses.iter().any(|address| Family::of(address.ip()) == Family::V6)
    }
}

/// The interface, with a connection into its namespace.
pub(crate) struct Inside {
    netlink: Netlink,
    index: u32,
}

impl Inside {
    /// The interface of this name; `None` where the namespace has none.
    pub(crate) fn find(ns: BorrowedFd<'_>, name: &InterfaceName) -> Result<Option<Self>> {
        let netlink = Netlink::open_in(ns)?;
        Ok(link::index(&netlink, name.as_str())?.map(|index| Self { netlink, index }))
    }

    /// Makes an interface that was just born, and is down, what it is to be, and sets it up.
    pub(crate) fn configure(ns: BorrowedFd<'_>, wanted: &Wanted) -> Result<Self> {
        let mut netlink = namespace::inside(ns, || {
            heed_nobody(&wanted.name, wanted.ipv6())?;
            Ok(Netlink::open()?)
        })?;
        let Some(index) = link::index(&netlink, wanted.name.as_str())? else {
            return Err(Error::NotFound { what: format!("interface '{}' in the container", wanted.name) });
        };
        let mut requests = vec![set_up(index, wanted)];
        requests.extend(wanted.addresses.iter().map(|&one| address::add(index, one)));
        requests.extend(wanted.gateways.iter().map(|&gateway| route::add_default(index, gateway)));
        netlink.tell(requests)?;
        Ok(Self { netlink, index })
    }

    /// Tells the neighbours whose addresses these are now, once the interface has a carrier: an address that another
    /// one had before is still in their caches. The kernel announces addresses when the hardware address is set, here
    /// to what it is.
    pub(crate) fn announce(&mut self, wanted: &Wanted) -> Result<()> {
        let again = LinkUnspec::new_with_index(self.index).address(wanted.mac.octets().to_vec()).build();
        link::settle(&self.netlink, &wanted.name)?;
        Ok(self.netlink.tell(vec![link::change(again, &wanted.name)])?)
    }

    /// Changes the default routes from those to these. On error they are what they were.
    pub(crate) fn reroute(&mut self, was: &[IpAddr], now: &[IpAddr]) -> Result<()> {
        let Err(refused) = self.exchange(was, now, &[Errno::SRCH])? else { return Ok(()) };
        // What was not taken away is still there, and what was not made is not.
        match self.exchange(now, was, &[Errno::SRCH, Errno::EXIST])? {
            Ok(()) => Err(refused.into()),
            Err(left) => Err(Error::Incomplete {
                what: "the change of the default routes".to_owned(),
                failures: vec![refused.into(), left.into()],
            }),
        }
    }

    /// Takes the default routes away that are not among the new ones, and makes those that are not among the old
    /// ones. The inner result is the first refusal but for these.
    fn exchange(&mut self, old: &[IpAddr], new: &[IpAddr], fine: &[Errno]) -> Result<Result<(), Refused>> {
        let gone = old.iter().filter(|gateway| !new.contains(gateway));
        let mut requests: Vec<_> = gone.map(|&one| route::remove_default(self.index, one)).collect();
        let made = new.iter().filter(|gateway| !old.contains(gateway));
        requests.extend(made.map(|&one| route::add_default(self.index, one)));
        let refused = |answer: Answer| answer.err().filter(|refused| !fine.contains(&refused.errno));
        Ok(self.netlink.ask(requests)?.into_iter().find_map(refused).map_or(Ok(()), Err))
    }

    /// What of it is missing or wrong, for people.
    pub(crate) fn faults(&mut self, wanted: &Wanted) -> Result<Vec<String>> {
        let name = &wanted.name;
        let Some(link) = link::by_index(&mut self.netlink, self.index)? else {
            return Ok(vec![format!("interface '{name}' in the container is gone")]);
        };
        let mut faults = Vec::new();
        if !link.up {
            faults.push(format!("interface '{name}' in the container is down"));
        }
        if link.mac != Some(wanted.mac) {
            faults.push(format!("interface '{name}' in the container has not the address {}", wanted.mac));
        }
        if link.mtu != wanted.mtu {
            let Wanted { mtu, .. } = wanted;
            faults.push(format!("interface '{name}' in the container has MTU {}, not {mtu}", link.mtu));
        }
        let addresses = address::of_link(&mut self.netlink, self.index)?;
        let lost = wanted.addresses.iter().filter(|address| !addresses.contains(address));
        faults.extend(lost.map(|address| format!("interface '{name}' in the container lacks {address}")));
        let gateways = route::gateways(&mut self.netlink, self.index)?;
        let lost = wanted.gateways.iter().filter(|gateway| !gateways.contains(gateway));
        faults.extend(lost.map(|gateway| format!("the default route through {gateway} is missing")));
        Ok(faults)
    }
}

/// Lets no router advertisement tell the interface anything (CVE-2020-10749), before it is up and asks for one.
/// Without an address of IPv6 it does not speak it at all.
fn heed_nobody(name: &InterfaceName, ipv6: bool) -> Result<()> {
    let setting = |setting| format!("ipv6/conf/{name}/{setting}");
    if !setting::write(&setting("accept_ra"), "0")? {
        return Ok(());
    }
    if ipv6 {
        setting::write(&setting("ndisc_notify"), "1")?;
        // Nobody else has its link-local address either, which else could not be used for a second.
        setting::write(&setting("accept_dad"), "0")?;
        // The default for new interfaces is the namespace's own.
        return setting::ensure(&setting("disable_ipv6"), "0");
    }
    setting::write(&setting("disable_ipv6"), "1").map(drop)
}

fn set_up(index: u32, wanted: &Wanted) -> Request {
    let mut ipv4 = InetDevConf::default();
    ipv4.arp_notify = 1;
    let mut settings = vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(ipv4)])];
    if wanted.ipv6() {
        // The link-local address follows from the hardware address, whatever the host's default is: guards know it
        // so.
        settings.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::Eui64)]));
    }
    let message = LinkUnspec::new_with_index(index)
        .alias(wanted.mark.to_string())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(settings))
        .up()
        .build();
    link::change(message, &wanted.name)
}
