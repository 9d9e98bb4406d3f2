//! Which subnet a network gets, and which address an endpoint.
//!
//! A network's **subnet** is [chosen] where nothing is on this host: no route, no address of an interface, no other
//! network. It is cut from large [blocks], so that thousands of networks fit before one must be named by hand. Choosing
//! is a function of what is [taken], so whoever records a network chooses and records under one lock.
//!
//! An endpoint's **address** is [leased](Leases). A lease is handed out next-fit, so an address that was given back
//! comes round as late as possible. It ends when it is given back, and at the latest when the host is started again; of a
//! crash it is known because no record names its holder.
//!
//! [chosen]: choose
//! [blocks]: blocks
//! [taken]: Taken

mod host;
mod hosts;
mod intent;
mod leases;
mod space;
mod table;

pub use host::taken_by_host;
pub use hosts::{check_pool, router};
pub use leases::{Lease, Leases, Wanted};
pub use space::{Block, Taken, blocks, check_free, choose};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mica_core::network::{EndpointId, Family, Subnet};

/// Says of an endpoint whose it is, for people, such as `container 'web'`; `None` for one that has no record, and whose
/// lease a crash has left.
pub type Owner<'a> = dyn Fn(&EndpointId) -> mica_core::Result<Option<String>> + 'a;

/// An address as a number, so that both families are counted alike.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of this number. What a number has beyond the bits of the family is cut off.
fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

/// The first and the last address of a subnet as numbers.
fn bounds(subnet: Subnet) -> (u128, u128) {
    (number(subnet.first()), number(subnet.last()))
}

/// The first few of a list as a sentence has them, and how many more there are: `a, b and 7 others`.
fn listed(names: &[String]) -> String {
    const FEW: usize = 8;
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] if names.len() <= FEW => format!("{} and {last}", rest.join(", ")),
        _ => format!("{} and {} others", names[..FEW].join(", "), names.len() - FEW),
    }
}
