//! Ports of the host that lead to a container: which ones, how they are kept from everybody else, and the way from `::1`,
//! which the kernel does not have.
//!
//! A supervisor [reserves](Reserved) the ports of its container before they are promised to anybody, and keeps them until
//! the driver has taken away what leads there. While it lives no other process of the host gets one, and when it dies they
//! are free at once.
//!
//! What arrives at them the kernel leads to the container, by the rules of the network's driver, but for what is sent to
//! `::1`: that is handed on by a relay.

mod bind;
mod choose;
mod limit;
mod relay;
mod taken;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use mica_core::network::{Families, Family, Port, PortRange, Protocol, Publish};
use rustix::io::Errno;

pub(crate) use relay::Relay;

use crate::{Error, Result};
use bind::{Held, Listener, Refused, Six};
use choose::{Any, Stuck, choose, single};

/// Where the host says which ports it gives to those who do not care, and which of them it does not.
const ANY: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const KEPT: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports of one container, kept from everybody else until this is dropped.
#[derive(Debug, Default)]
pub struct Reserved {
    ports: Vec<Port>,
    loopback6: Vec<Port>,
    listeners: Vec<Arc<Listener>>,
    _held: Vec<Held>,
    limit_was: Option<u64>,
}

impl Reserved {
    /// Chooses the host's ports for a container that has a gateway in these families, and binds them in the calling thread's
    /// namespace. A container without a gateway publishes nothing.
    ///
    /// A port at all addresses is the same number in both families, and all of them are bound whatever the container has:
    /// the gateway may change while it runs. `who` says which container has a port; it is asked after the port was bound,
    /// because not every container keeps its ports by binding them.
    ///
    /// Fails, keeping nothing, where a port is another's, naming whose; where the host does not have the address; and where
    /// there cannot be as many descriptors. It may raise the limit of those, see [`limit_was`](Self::limit_was).
    pub fn reserve(
        publish: &[Publish],
        families: Families,
        who: &dyn Fn(&Port) -> Option<String>,
    ) -> Result<Self> {
        let wishes = if families == Families::NONE { Vec::new() } else { distinct(publish) };
        wishes.iter().try_for_each(|wish| refuse_unreachable(wish, families))?;
        if wishes.is_empty() {
            return Ok(Self::default());
        }
        let host = Six::of_host();
        let needed = wishes.iter().map(|wish| cost(wish, host)).sum();
        let limit_was = limit::make_room(needed)?;
        let take = |port: &Port| take(port, host, who);
        let chosen = choose(&wishes, &any()?, take).map_err(|stuck| stuck_for(stuck, who))?;
        let (mut ports, mut held): (Vec<Port>, Vec<Held>) = chosen.into_iter().unzip();
        let loopback6 =
            ports.extract_if(.., |port| port.address() == Some(Ipv6Addr::LOCALHOST.into())).collect();
        let listeners = held.iter_mut().flat_map(|held| held.listeners.drain(..)).collect();
        Ok(Self { ports, loopback6, listeners, _held: held, limit_was })
    }

    /// Those that the kernel leads to the container, in the order of the wishes.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Those at `::1` that were asked for. A port at all addresses, or at all of IPv6, is there beside.
    pub fn loopback6(&self) -> &[Port] {
        &self.loopback6
    }

    /// The limit of open files that this process had, where it had to be raised. It is the one that a container's processes
    /// are to have.
    pub fn limit_was(&self) -> Option<u64> {
        self.limit_was
    }
}

/// Each once: a wish that is said twice is one wish.
fn distinct(publish: &[Publish]) -> Vec<Publish> {
    let mut wishes: Vec<Publish> = Vec::with_capacity(publish.len());
    for wish in publish {
        if !wishes.contains(wish) {
            wishes.push(*wish);
        }
    }
    wishes
}

/// Refuses an address from which nothing would lead to the container. `::1` is handed on, to whatever family it has.
fn refuse_unreachable(wish: &Publish, families: Families) -> Result<()> {
    let Some(address) = wish.address() else { return Ok(()) };
    if address != IpAddr::from(Ipv6Addr::LOCALHOST) {
        let family = Family::of(address);
        return if families.has(family) {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "port '{wish}': no network of the container leads {family} to it; publish it without an address, \
                 or connect the container to a network with {family}"
            )))
        };
    }
    if wish.protocol() == Protocol::Sctp {
        return Err(Error::Invalid(format!(
            "port '{wish}': of SCTP nothing can be handed on from ::1; publish it at another address"
        )));
    }
    Ok(())
}

/// How many descriptors it takes, wherever it gets its place.
fn cost(wish: &Publish, host: Six) -> u64 {
    let first = wish.choices().map_or(1, |choices| *choices.start());
    wish.at(first).map_or(0, |port| bind::cost(&port, host))
}

/// Keeps a port, or says which number of it is another's.
fn take(
    port: &Port,
    host: Six,
    who: &dyn Fn(&Port) -> Option<String>,
) -> Result<std::result::Result<Held, u16>> {
    let is_recorded = |number: &u16| who(&single(port, *number)).is_some();
    match bind::hold(port, host) {
        Ok(held) if who(port).is_none() => Ok(Ok(held)),
        Ok(_) => Ok(Err(port.host().ports().find(is_recorded).unwrap_or(port.host().first()))),
        Err(Refused { number, errno: Errno::ADDRINUSE }) => Ok(Err(number)),
        Err(Refused { number, errno }) => Err(unbound(port, number, errno)),
    }
}

fn unbound(port: &Port, number: u16, errno: Errno) -> Error {
    let at = shown(port, number);
    match errno {
        Errno::ADDRNOTAVAIL | Errno::INVAL | Errno::AFNOSUPPORT | Errno::NODEV => Error::Invalid(format!(
            "cannot publish at {at}: the host has no such address; 'ip address' lists those that it has"
        )),
        _ => Error::io(|| format!("bind {at}"))(errno.into()),
    }
}

/// A number of a port of the host, as a client would write it.
fn shown(port: &Port, number: u16) -> String {
    let protocol = port.protocol();
    match port.address() {
        Some(IpAddr::V6(address)) => format!("[{address}]:{number}/{protocol}"),
        Some(address) => format!("{address}:{number}/{protocol}"),
        None => format!("0.0.0.0:{number}/{protocol}"),
    }
}

fn stuck_for(stuck: Stuck, who: &dyn Fn(&Port) -> Option<String>) -> Error {
    match stuck {
        Stuck::Taken(port) => Error::Conflict(taken_text(&port, who)),
        Stuck::AllTaken(wish) => Error::Conflict(match wish.host() {
            Some(range) => format!(
                "bind for '{wish}' failed: all ports from {range} are already allocated; give a wider range"
            ),
            None => format!(
                "bind for '{wish}' failed: all ports are already allocated; name one, or widen '{ANY}'"
            ),
        }),
        Stuck::Twice(one, other) => Error::Invalid(format!(
            "'{one}' and '{other}' are for the same port of the host; publish one of them at another"
        )),
        Stuck::Failed(error) => error,
    }
}

fn taken_text(port: &Port, who: &dyn Fn(&Port) -> Option<String>) -> String {
    let at = shown(port, port.host().first());
    let hint = "publish at another one, or name none for any that is free";
    match who(port) {
        Some(container) => {
            format!("bind for {at} failed: port is already allocated: {container} has it; {hint}")
        }
        None => format!("bind for {at} failed: address already in use: {}; {hint}", taken::holder(port)),
    }
}

/// The host's ports for those who do not care which.
fn any() -> Result<Any> {
    let failed = |path: &'static str| move || format!("read '{path}'");
    let text = fs::read_to_string(ANY).map_err(Error::io(failed(ANY)))?;
    let mut ends = text.split_whitespace().filter_map(|end| end.parse::<u16>().ok());
    let (Some(low), Some(high)) = (ends.next(), ends.next()) else {
        return Err(Error::Invalid(format!("'{ANY}' holds '{}', not two ports", text.trim())));
    };
    let kept = fs::read_to_string(KEPT).map_err(Error::io(failed(KEPT)))?;
    let kept = kept.trim().split(',').filter_map(|range| range.parse::<PortRange>().ok()).collect();
    let mut random = [0; 2];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    read.map_err(Error::io(failed("/dev/urandom")))?;
    let low = low.max(1);
    let count = u32::from(high.saturating_sub(low)) + 1;
    let start = low.saturating_add((u32::from(u16::from_ne_bytes(random)) % count) as u16);
    Ok(Any { range: low..=high, kept, start })
}
