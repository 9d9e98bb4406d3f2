//! Which firewall a host has.

use std::path::Path;

use mica_core::network::OwnerId;
use mica_core::{Error, Result};

use super::iptables::Iptables;
use super::nft::Nft;
use super::{Firewall, none};

/// A back end by its name, as the setting `firewall` has it.
type Backend = (&'static str, fn(OwnerId, &Path) -> Result<Box<dyn Firewall>>);

/// The most preferred first. `none` is taken only when it is asked for.
const BACKENDS: [Backend; 3] = [
    ("nft", |owner, _| Ok(Box::new(Nft::open(owner)?))),
    ("iptables", |owner, dir| Ok(Box::new(Iptables::open(owner, dir)?))),
    ("none", |_, _| Ok(Box::new(none::None))),
];

/// Opens the back end of this name, or the first that the host has. `dir` is the driver's own directory.
///
/// Fails with `Options` for an unknown name, and with `Unavailable` where the host lacks what is needed, naming what each lacks.
pub(crate) fn open(choice: Option<&str>, owner: OwnerId, dir: &Path) -> Result<Box<dyn Firewall>> {
    let Some(choice) = choice else { return first(owner, dir) };
    let Some((_, open)) = BACKENDS.iter().find(|(name, _)| *name == choice) else {
        let known = BACKENDS.map(|(name, _)| name).join(", ");
        let choice = choice.escape_debug();
        return Err(Error::Options(format!("unknown firewall '{choice}'; those that exist are: {known}")));
    };
    open(owner, dir)
}

fn first(owner: OwnerId, dir: &Path) -> Result<Box<dyn Firewall>> {
    let mut reasons = Vec::new();
    for (name, open) in BACKENDS.iter().filter(|(name, _)| *name != "none") {
        match open(owner, dir) {
            Err(Error::Unavailable { reason }) => reasons.push(format!("{name}: {reason}")),
            opened => return opened,
        }
    }
    let reasons = reasons.join("; ");
    Err(Error::Unavailable {
        reason: format!("no firewall works ({reasons}); one of them, or the choice 'none'"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_firewall_is_refused_with_those_that_exist() {
        let owner = OwnerId::from_bytes([1; 8]);
        let text = open(Some("pf"), owner, Path::new("/")).unwrap_err().to_string();
        assert_eq!(text, "unknown firewall 'pf'; those that exist are: nft, iptables, none");
    }
}
