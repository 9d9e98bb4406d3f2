//! Links on the host that are this driver's: how they are found, and when one may be removed.

use mica_core::network::{InterfaceName, Mac, Mark};
use mica_core::{Error, Result};

use crate::ip::{Link, ip, links};

/// A link on the host. Its name, its hardware address and its mark derive from an id, so it is found when all else is lost.
pub(crate) struct Ours {
    pub(crate) name: InterfaceName,
    pub(crate) mac: Mac,
    pub(crate) mark: Mark,
}

impl Ours {
    /// The link, if it is there. Fails with `AlreadyExists` for one of this name that is somebody else's.
    pub(crate) fn find(&self) -> Result<Option<Link>> {
        let found = links()?.into_iter().find(|link| link.ifname == self.name.as_str());
        match found {
            Some(link) if !self.is(&link) => {
                Err(Error::AlreadyExists { what: format!("link '{}' of somebody else's", self.name) })
            }
            found => Ok(found),
        }
    }

    /// A link is born without an alias, and the process may have been killed just then; but with this hardware address.
    fn is(&self, link: &Link) -> bool {
        match link.ifalias.as_str() {
            "" => link.address == self.mac.to_string(),
            alias => alias == self.mark.to_string(),
        }
    }

    /// Removes it, and nothing of somebody else's.
    pub(crate) fn remove(&self) -> Result<()> {
        let removed = match self.find() {
            Ok(Some(_)) => match ip(&format!("link delete dev {}", self.name)) {
                // It may have gone by itself just now, with the container's namespace.
                Err(error) if self.find()?.is_some() => Err(error),
                _ => Ok(()),
            },
            Ok(None) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        Error::unless_complete(format!("link '{}'", self.name), removed.err().into_iter().collect())
    }

    /// Takes back what a call made that failed with this error.
    pub(crate) fn undo(&self, error: Error) -> Error {
        match self.remove() {
            Ok(()) => error,
            Err(left) => {
                Error::Incomplete { what: format!("link '{}'", self.name), failures: vec![error, left] }
            }
        }
    }
}
