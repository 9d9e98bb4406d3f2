//! How many descriptors this process may have: a row of 1,000 ports takes twice as many.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::relay;
use crate::{Error, Result};

/// What is left for everything else: connections that are handed on, the log, clients.
const SPARE: u64 = relay::MOST_DESCRIPTORS + 64;

/// What to do about the limit.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Enough,
    Raise(Rlimit),
    Lacking { most: u64 },
}

/// Makes room for as many more descriptors, where they are to keep ports: `needed` in all. Answers the limit that was, where
/// it had to be raised; processes that are started inherit the new one.
pub(super) fn make_room(needed: u64) -> Result<Option<u64>> {
    let failed = || "count the descriptors of this process";
    let open = fs::read_dir("/proc/self/fd").map_err(Error::io(failed))?.count() as u64;
    let was = getrlimit(Resource::Nofile);
    match room(was, open, needed) {
        Room::Enough => Ok(None),
        Room::Raise(limit) => {
            let raised = setrlimit(Resource::Nofile, limit);
            raised.map_err(|e| Error::io(|| "raise the limit of open files (RLIMIT_NOFILE)")(e.into()))?;
            Ok(was.current)
        }
        Room::Lacking { most } => Err(Error::Invalid(format!(
            "to publish these ports takes {needed} descriptors, and the limit of open files (ulimit -Hn) leaves {most}: \
             publish fewer, at one address of the host each, or raise it"
        ))),
    }
}

fn room(limit: Rlimit, open: u64, needed: u64) -> Room {
    let wanted = open + needed + SPARE;
    let allows = |limit: Option<u64>| limit.is_none_or(|limit| wanted <= limit);
    if needed == 0 || allows(limit.current) {
        Room::Enough
    } else if allows(limit.maximum) {
        Room::Raise(Rlimit { current: limit.maximum, maximum: limit.maximum })
    } else {
        Room::Lacking { most: limit.maximum.unwrap_or(u64::MAX).saturating_sub(open + SPARE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_where_that_helps() {
        let limit = |current, maximum| Rlimit { current: Some(current), maximum: Some(maximum) };
        assert_eq!(room(limit(4096, 4096), 10, 3000), Room::Enough);
        assert_eq!(room(limit(1024, 20_000), 10, 3000), Room::Raise(limit(20_000, 20_000)));
        assert_eq!(room(limit(1024, 4096), 10, 4000), Room::Lacking { most: 4086 - SPARE });
        assert_eq!(room(limit(64, 64), 10, 0), Room::Enough);
        let boundless = |current| Rlimit { current, maximum: None };
        assert_eq!(room(boundless(Some(1024)), 10, 90_000), Room::Raise(boundless(None)));
    }

    #[test]
    fn for_a_few_ports_the_usual_limit_does() {
        let usual = Rlimit { current: Some(1024), maximum: Some(4096) };
        assert_eq!(room(usual, 30, 30), Room::Enough);
    }
}
