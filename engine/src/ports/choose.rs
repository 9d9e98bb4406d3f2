//! Which of the host's ports a wish gets.

use std::ops::RangeInclusive;

use mica_core::network::{Port, PortRange, Publish};

use crate::{Error, Result};

/// The host's ports for those who do not care which.
#[derive(Clone, Debug)]
pub(super) struct Any {
    /// All of them.
    pub(super) range: RangeInclusive<u16>,
    /// Those among them that the host's owner keeps for something else.
    pub(super) kept: Vec<PortRange>,
    /// Where the search begins: at another place each time, so that a port which was given back is not used at once again.
    pub(super) start: u16,
}

/// Why there is no port for a wish.
#[derive(Debug)]
pub(super) enum Stuck {
    /// The only port that would do is another's.
    Taken(Port),
    /// Each port that would do is another's.
    AllTaken(Publish),
    /// Two wishes of the same container are for the same port.
    Twice(Port, Port),
    /// It could not be found out.
    Failed(Error),
}

impl From<Error> for Stuck {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Finds each wish its port, with what `take` makes of it; that answers the number which is another's already. A wish that
/// has less choice goes first, so none stands in the way of another that could have had its place. The answer is in the
/// order of the wishes.
pub(super) fn choose<H>(
    wishes: &[Publish],
    any: &Any,
    mut take: impl FnMut(&Port) -> Result<std::result::Result<H, u16>>,
) -> std::result::Result<Vec<(Port, H)>, Stuck> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    // By the last place: then the first free one is never one that only a later wish could have had.
    order.sort_by_key(|&at| wishes[at].choices().map_or(u32::MAX, |choices| u32::from(*choices.end())));
    let mut chosen: Vec<(usize, Port, H)> = Vec::new();
    for at in order {
        let (port, held) = place(&wishes[at], any, &chosen, &mut take)?;
        chosen.push((at, port, held));
    }
    chosen.sort_by_key(|(at, ..)| *at);
    Ok(chosen.into_iter().map(|(_, port, held)| (port, held)).collect())
}

fn place<H>(
    wish: &Publish,
    any: &Any,
    chosen: &[(usize, Port, H)],
    take: &mut impl FnMut(&Port) -> Result<std::result::Result<H, u16>>,
) -> std::result::Result<(Port, H), Stuck> {
    let count = wish.container().count();
    let is_fixed = wish.choices().is_some_and(|choices| choices.start() == choices.end());
    let mut hit = None;
    for first in candidates(wish, any) {
        let numbers = first..=first + (count - 1);
        if hit.is_some_and(|hit| numbers.contains(&hit)) {
            continue;
        }
        let port = wish.at(first).map_err(|error| Stuck::Failed(error.into()))?;
        if let Some((_, other, _)) = chosen.iter().find(|(_, other, _)| other.overlaps(&port)) {
            if is_fixed {
                return Err(Stuck::Twice(*other, port));
            }
            hit = Some(*numbers.end().min(&other.host().last()));
            continue;
        }
        match take(&port)? {
            Ok(held) => return Ok((port, held)),
            Err(taken) if is_fixed => return Err(Stuck::Taken(single(&port, taken))),
            Err(taken) => hit = Some(taken),
        }
    }
    Err(Stuck::AllTaken(*wish))
}

/// Where on the host it may begin, in the order in which it is tried.
fn candidates(wish: &Publish, any: &Any) -> Box<dyn Iterator<Item = u16>> {
    if let Some(choices) = wish.choices() {
        return Box::new(choices);
    }
    let (low, count) = (*any.range.start(), wish.container().count());
    let Some(high) = any.range.end().checked_sub(count - 1).filter(|high| low <= *high) else {
        return Box::new(std::iter::empty());
    };
    let start = any.start.clamp(low, high);
    let kept = any.kept.clone();
    let is_free =
        move |first: &u16| kept.iter().all(|kept| kept.last() < *first || first + (count - 1) < kept.first());
    Box::new((start..=high).chain(low..start).filter(is_free))
}

/// That one port, of a row of them.
pub(super) fn single(port: &Port, number: u16) -> Port {
    let pair = port.pairs().find(|(host, _)| *host == number);
    let one = pair.and_then(|(host, container)| {
        let (host, container) = (PortRange::one(host).ok()?, PortRange::one(container).ok()?);
        Publish::new(port.protocol(), port.address(), Some(host), container).ok()?.at(number).ok()
    });
    one.unwrap_or(*port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANY: Any = Any { range: 100..=119, kept: Vec::new(), start: 110 };

    fn wish(text: &str) -> Publish {
        text.parse().unwrap()
    }

    /// The ports that these wishes get on a host where some are taken.
    fn get(wishes: &[&str], any: &Any, taken: &[u16]) -> std::result::Result<Vec<String>, Stuck> {
        let wishes: Vec<_> = wishes.iter().map(|text| wish(text)).collect();
        let take = |port: &Port| {
            let hit = port.host().ports().find(|number| taken.contains(number));
            Ok(hit.map_or(Ok(()), Err))
        };
        let chosen = choose(&wishes, any, take)?;
        Ok(chosen.iter().map(|(port, ())| port.to_string()).collect())
    }

    #[test]
    fn a_wish_gets_the_first_place_that_is_free() {
        let found = get(&["8000-8010:80"], &ANY, &[8000, 8001]).unwrap();
        assert_eq!(found, ["8002:80/tcp"]);
    }

    #[test]
    fn a_port_without_a_wish_is_searched_all_around() {
        let taken: Vec<u16> = (103..=119).collect();
        assert_eq!(get(&["80"], &ANY, &[110]).unwrap(), ["111:80/tcp"]);
        assert_eq!(get(&["80"], &ANY, &taken).unwrap(), ["100:80/tcp"]);
        assert!(matches!(get(&["80-83"], &ANY, &taken), Err(Stuck::AllTaken(_))));
        assert!(matches!(get(&["1-21"], &ANY, &[]), Err(Stuck::AllTaken(_))));
    }

    #[test]
    fn a_row_of_ports_gets_a_row_without_a_gap() {
        assert_eq!(get(&["80-84"], &ANY, &[112, 117]).unwrap(), ["100-104:80-84/tcp"]);
    }

    #[test]
    fn a_port_that_the_hosts_owner_keeps_goes_to_nobody_who_did_not_ask_for_it() {
        let any = Any { kept: vec!["108-119".parse().unwrap()], ..ANY };
        assert_eq!(get(&["80", "115:81"], &any, &[]).unwrap(), ["100:80/tcp", "115:81/tcp"]);
    }

    #[test]
    fn a_wish_with_a_choice_leaves_the_place_to_one_without() {
        let wishes = ["80", "8000-8001:81", "8000:82", "110:83"];
        let found = get(&wishes, &ANY, &[]).unwrap();
        assert_eq!(found, ["111:80/tcp", "8001:81/tcp", "8000:82/tcp", "110:83/tcp"]);
    }

    #[test]
    fn two_wishes_for_one_port_are_named() {
        let Err(Stuck::Twice(one, other)) = get(&["8080:80", "127.0.0.1:8080:81"], &ANY, &[]) else {
            panic!("both got it");
        };
        assert_eq!([one.to_string(), other.to_string()], ["8080:80/tcp", "127.0.0.1:8080:81/tcp"]);
    }

    #[test]
    fn the_one_port_of_a_row_that_is_taken_is_named() {
        let Err(Stuck::Taken(port)) = get(&["3000-3099:4000-4099/udp"], &ANY, &[3042]) else {
            panic!("it was free");
        };
        assert_eq!(port.to_string(), "3042:4042/udp");
    }

    /// Whether each of these can have a port of its own, by trying everything.
    fn fits(wishes: &[Publish], taken: &mut Vec<u16>) -> bool {
        let Some((first, rest)) = wishes.split_first() else { return true };
        first.choices().into_iter().flatten().any(|number| {
            !taken.contains(&number) && {
                taken.push(number);
                let fit = fits(rest, taken);
                taken.pop();
                fit
            }
        })
    }

    proptest! {
        #[test]
        fn there_is_a_port_for_each_wherever_there_can_be(
            wishes in prop::collection::vec((1_u16..8, 0_u16..4), 0..6),
            taken in prop::collection::vec(1_u16..12, 0..5),
        ) {
            let texts: Vec<String> =
                wishes.iter().map(|(low, more)| format!("{low}-{}:80", low + more)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let wishes: Vec<Publish> = texts.iter().map(|text| wish(text)).collect();
            let found = get(&texts, &ANY, &taken);
            prop_assert_eq!(found.is_ok(), fits(&wishes, &mut taken.clone()));
            let ports: Vec<Port> = found.unwrap_or_default().iter().map(|text| text.parse().unwrap()).collect();
            for (at, port) in ports.iter().enumerate() {
                prop_assert!(wishes[at].choices().unwrap().contains(&port.host().first()));
                prop_assert!(!taken.contains(&port.host().first()));
                prop_assert!(ports[..at].iter().all(|other| !other.overlaps(port)));
            }
        }
    }
}
