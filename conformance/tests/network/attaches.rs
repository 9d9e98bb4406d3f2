//! Endpoints that are attached or changed wrongly.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use mica_conformance::network::{Namespace, kernel};
use mica_core::network::{Address, Attachment, Endpoint, EndpointId, Network, NetworkDriver};
use mica_core::{Error, Result};
use nix::sched::{CloneFlags, setns};

use crate::fault::Fault;
use crate::plain::Plain;

/// Declares drivers whose `attach` is this function.
macro_rules! attaches {
    ($($(#[doc = $doc:literal])* $Fault:ident = |$plain:ident, $net:ident, $ep:ident, $ns:ident| $body:expr;)+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Default)]
        struct $Fault;

        impl Fault for $Fault {
            fn attach(
                &self,
                $plain: &Plain,
                $net: &Network,
                $ep: &Endpoint,
                $ns: BorrowedFd<'_>,
            ) -> Result<Attachment> {
                $body
            }
        }
    )+};
}

fn inside<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> std::io::Result<T> + Send) -> T {
    Namespace::of(ns).unwrap().inside(work).unwrap()
}

/// The kernel says by the owner of its settings whose a namespace is.
fn is_anothers(ns: BorrowedFd<'_>) -> bool {
    inside(ns, || fs::metadata("/proc/sys/net/ipv4/ip_forward")).uid() != 0
}

attaches! {
    AddsAnAddress = |plain, net, ep, ns| {
        let attached = plain.attach(net, ep, ns)?;
        let extra: Address = "192.0.2.9/32".parse()?;
        inside(ns, || kernel::add_address(ep.interface.as_str(), extra));
        Ok(attached)
    };
    /// The port is left out of the bridge where it has a neighbour.
    ConnectsNobody = |plain, net, ep, ns| {
        let attached = plain.attach(net, ep, ns)?;
        kernel::set_up(Plain::port(ep.id).as_str(), false).unwrap();
        Ok(attached)
    };
    IsAlwaysTheGateway = |plain, net, ep, ns| {
        plain.attach(net, &Endpoint { gateway: net.routes, ..ep.clone() }, ns)
    };
    ChoosesTheMac = |plain, net, ep, ns| plain.attach(net, &Endpoint { mac: None, ..ep.clone() }, ns);
    ChoosesTheMtu = |plain, net, ep, ns| plain.attach(&Network { mtu: None, ..net.clone() }, ep, ns);
    WantsShortNames = |plain, net, ep, ns| {
        if ep.interface.as_str().len() > 14 {
            return Err(Error::Options("a name has at most 14 bytes".to_owned()));
        }
        plain.attach(net, ep, ns)
    };
    IgnoresLinkLocal = |plain, net, ep, ns| {
        let is_global = |ip: &&IpAddr| !matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
        let addresses = ep.addresses.iter().filter(is_global).copied().collect();
        plain.attach(net, &Endpoint { addresses, ..ep.clone() }, ns)
    };
    HeedsAdvertisements = |plain, net, ep, ns| {
        let attached = plain.attach(net, ep, ns)?;
        let name = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", ep.interface);
        inside(ns, || fs::write(name, "1"));
        Ok(attached)
    };
    /// Whose root the container's is nobody asked.
    WantsItsOwnRoot = |plain, net, ep, ns| {
        if is_anothers(ns) {
            return Err(Error::driver("enter a namespace", "it belongs to somebody else"));
        }
        plain.attach(net, ep, ns)
    };
    /// A setting could not be written, and nobody looked.
    HeedsAdvertisementsOfAnother = |plain, net, ep, ns| {
        let attached = plain.attach(net, ep, ns)?;
        if is_anothers(ns) {
            inside(ns, || fs::write(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", ep.interface), "1"));
        }
        Ok(attached)
    };
    WantsTheContainerAlone = |plain, net, ep, ns| {
        if inside(ns, kernel::links).len() > 1 {
            return Err(Error::AlreadyExists { what: "an interface".to_owned() });
        }
        plain.attach(net, ep, ns)
    };
    /// What is in the way inside goes.
    TakesTheName = |plain, net, ep, ns| {
        let name = ep.interface.as_str();
        if inside(ns, || kernel::link(name)).is_some() {
            inside(ns, || kernel::remove_link(name));
        }
        plain.attach(net, ep, ns)
    };
    /// An endpoint that is attached is attached anew.
    AttachesAnew = |plain, net, ep, ns| {
        plain.detach(net, ep, None, None)?;
        plain.attach(net, ep, ns)
    };
    RaisesTheNetwork = |plain, net, ep, ns| {
        plain.up(net)?;
        plain.attach(net, ep, ns)
    };
    TakesWhatFits = |plain, net, ep, ns| {
        let fits = |ip: &&IpAddr| match ip {
            IpAddr::V4(v4) if v4.is_link_local() => true,
            ip => net.pools.iter().any(|pool| pool.subnet.contains(**ip)),
        };
        let addresses = ep.addresses.iter().filter(fits).copied().collect();
        plain.attach(net, &Endpoint { addresses, ..ep.clone() }, ns)
    };
    KeepsTheNamespace = |plain, net, ep, ns| {
        std::mem::forget(ns.try_clone_to_owned());
        plain.attach(net, ep, ns)
    };
    /// After an error the thread stays where it was at work.
    StaysInside = |plain, net, ep, ns| {
        plain.attach(net, ep, ns).inspect_err(|_| setns(ns, CloneFlags::CLONE_NEWNET).unwrap())
    };
    /// What was made before the failure stays.
    LeavesDebris = |plain, net, ep, ns| {
        plain.attach(net, ep, ns).inspect_err(|_| {
            let _ = kernel::add_bridge("debris0");
        })
    };
}

/// Neighbours find out by themselves.
#[derive(Debug, Default)]
struct TellsNobody;

impl Fault for TellsNobody {
    const ANNOUNCES: bool = false;
}

/// An id is good for one attach.
#[derive(Debug, Default)]
struct AttachesOnce {
    seen: Mutex<BTreeSet<EndpointId>>,
}

impl Fault for AttachesOnce {
    fn attach(&self, plain: &Plain, net: &Network, ep: &Endpoint, ns: BorrowedFd<'_>) -> Result<Attachment> {
        if !self.seen.lock().unwrap().insert(ep.id) {
            return Err(Error::AlreadyExists { what: format!("endpoint '{}'", ep.id) });
        }
        plain.attach(net, ep, ns)
    }
}

/// Declares drivers whose `update` is this function.
macro_rules! updates {
    ($($Fault:ident = |$plain:ident, $net:ident, $was:ident, $ep:ident, $ns:ident| $body:expr;)+) => {$(
        #[derive(Debug, Default)]
        struct $Fault;

        impl Fault for $Fault {
            fn update(
                &self,
                $plain: &Plain,
                $net: &Network,
                $was: &Attachment,
                $ep: &Endpoint,
                $ns: BorrowedFd<'_>,
            ) -> Result<Attachment> {
                $body
            }
        }
    )+};
}

updates! {
    UpdatesNothing = |_plain, _net, was, _ep, _ns| Ok(was.clone());
    UpdatesItsData = |plain, net, was, ep, ns| {
        Ok(Attachment { data: "updated".to_owned(), ..plain.update(net, was, ep, ns)? })
    };
}

caught! {
    an_address_too_many: AddsAnAddress => ["attach-makes-the-interface"];
    endpoints_alone: ConnectsNobody => ["attach-connects"];
    default_routes_everywhere: IsAlwaysTheGateway => ["attach-default-route"];
    hardware_addresses_of_its_own: ChoosesTheMac => ["attach-mac"];
    an_mtu_of_its_own: ChoosesTheMtu => ["attach-mtu"];
    short_names_only: WantsShortNames => ["attach-long-name"];
    no_link_local_addresses: IgnoresLinkLocal => ["attach-link-local-address"];
    advertisements_heeded: HeedsAdvertisements => ["attach-heeds-no-advertisement"];
    namespaces_of_its_own_root_only: WantsItsOwnRoot => ["attach-another-root"];
    advertisements_heeded_where_root_is_another: HeedsAdvertisementsOfAnother => ["attach-another-root"];
    one_network_only: WantsTheContainerAlone => ["attach-to-two-networks"];
    names_taken_from_others: TakesTheName => ["attach-name-taken"];
    a_second_attach_that_works: AttachesAnew => ["attach-twice"];
    an_attach_that_raises_the_network: RaisesTheNetwork => ["attach-network-not-up"];
    addresses_left_out: TakesWhatFits => ["attach-address-from-elsewhere"];
    a_namespace_held_open: KeepsTheNamespace => ["calls-leak-no-descriptor"];
    a_thread_that_does_not_come_back: StaysInside => ["calls-stay-in-their-namespace"];
    debris_of_a_failure: LeavesDebris => ["attach-name-taken"];
    neighbours_that_are_not_told: TellsNobody => ["address-reuse"];
    an_id_for_once: AttachesOnce => ["attach-again"];
    an_update_that_does_nothing: UpdatesNothing => ["update-mends", "update-gateway", "update-of-something-else", "update-not-attached"];
    an_update_that_answers_something_else: UpdatesItsData => ["update-of-nothing"];
}
