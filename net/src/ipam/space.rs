//! Subnets: where networks are put.

use mica_core::network::{Address, Family, OwnerId, Subnet};
use mica_core::{Error, Result};

use super::{address, bounds, listed, number};

/// A block of addresses that is cut into subnets of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    within: Subnet,
    prefix: u8,
}

impl Block {
    /// The subnets of `prefix` bits within this one. Fails with [`Error::Options`] where there is none.
    pub fn new(within: Subnet, prefix: u8) -> Result<Self> {
        let (least, most) = (within.prefix(), within.family().bits());
        if !(least..=most).contains(&prefix) {
            return Err(Error::Options(format!(
                "{within} cannot be cut into subnets of {prefix} bits; take {least} to {most}"
            )));
        }
        Ok(Self { within, prefix })
    }

    /// The first subnet of which nobody has a part: one walk along what is taken, however many subnets the block has.
    fn first_free(&self, taken: &[Taken]) -> Option<Subnet> {
        let family = self.within.family();
        let inside = (u128::MAX >> (128 - family.bits())).checked_shr(self.prefix.into()).unwrap_or(0);
        let mut held: Vec<_> = self.overlapped(taken).map(|taken| bounds(taken.subnet)).collect();
        held.sort_unstable();
        let (mut from, end) = bounds(self.within);
        for (low, high) in held {
            if from | inside < low {
                break;
            }
            from = from.max((high | inside).checked_add(1)?);
        }
        let address = Address::new(address(family, from), self.prefix).ok()?;
        (from <= end).then(|| address.subnet())
    }

    fn overlapped<'a>(&self, taken: &'a [Taken]) -> impl Iterator<Item = &'a Taken> {
        let within = self.within;
        taken.iter().filter(move |taken| taken.subnet.overlaps(within))
    }
}

/// Addresses that somebody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The addresses.
    pub subnet: Subnet,
    /// Who uses them, for people, such as `network 'web'` or `the routes of 'tun0'`.
    pub by: String,
}

/// Where the networks of an engine are put when nothing else is wished for.
///
/// IPv4: the private blocks, cut into subnets of 24 bits, of which they have 69,888. The one that home routers have
/// comes last, and before it the one that companies have. IPv6: the [/48 of the engine's own](https://www.rfc-editor.org/rfc/rfc4193)
/// among unique local addresses, cut into 65,536 subnets of 64 bits. It is made of the engine's id, so two hosts whose
/// networks are joined one day are unlikely to have the same.
pub fn blocks(family: Family, owner: &OwnerId) -> Result<Vec<Block>> {
    let private = |text: &str| Block::new(text.parse()?, 24);
    match family {
        Family::V4 => ["172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16"].into_iter().map(private).collect(),
        Family::V6 => {
            let [a, b, c, d, e, ..] = *owner.as_bytes();
            let global = [0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            Ok(vec![Block::new(Subnet::new(global.into(), 48)?, 64)?])
        }
    }
}

/// The first subnet of these blocks of which nobody has a part.
///
/// Fails with [`Error::Full`], naming who has what. Of two who have the same, such as a network and the interface that it
/// stands on, the first is named.
pub fn choose(blocks: &[Block], taken: &[Taken]) -> Result<Subnet> {
    let free = blocks.iter().find_map(|block| block.first_free(taken));
    free.ok_or_else(|| exhausted(blocks, taken))
}

fn exhausted(blocks: &[Block], taken: &[Taken]) -> Error {
    let held = largest_first(blocks.iter().flat_map(|block| block.overlapped(taken)));
    let held: Vec<_> = held.iter().map(|taken| format!("{} of {}", taken.subnet, taken.by)).collect();
    let blocks: Vec<_> =
        blocks.iter().map(|block| format!("{} in subnets of {} bits", block.within, block.prefix)).collect();
    Error::Full {
        what: format!("the space for new networks ({})", listed(&blocks)),
        limit: format!(
            "nothing beside {}; remove a network that nobody needs, or name a subnet",
            listed(&held)
        ),
    }
}

/// Each subnet once, with the first of those who have it.
fn largest_first<'a>(taken: impl Iterator<Item = &'a Taken>) -> Vec<&'a Taken> {
    let mut taken: Vec<_> = taken.collect();
    taken.sort_by_key(|taken| (taken.subnet.prefix(), number(taken.subnet.first())));
    taken.dedup_by_key(|taken| taken.subnet);
    taken
}

/// Refuses a subnet of which somebody has a part. Fails with [`Error::InUse`], naming all who have one.
pub fn check_free(subnet: Subnet, taken: &[Taken]) -> Result<()> {
    let overlapping = largest_first(taken.iter().filter(|taken| taken.subnet.overlaps(subnet)));
    let by: Vec<_> = overlapping.iter().map(|taken| format!("{} with {}", taken.by, taken.subnet)).collect();
    if by.is_empty() {
        return Ok(());
    }
    Err(Error::InUse { what: format!("subnet {subnet}, or a part of it,"), by: listed(&by) })
}

#[cfg(test)]
mod tests;
