//! Which containers use which images and layers: the part of a container's record that images depend on.

use std::path::Path;

use mica_archive::Digest;
use mica_core::LayerId;
use serde::Deserialize;

use crate::listing::Listing;
use crate::root::{self, Root};
use crate::{Error, Result};

const MAX_RECORD: u64 = 16 << 20;

/// What a container keeps from being removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Use {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image that it was made from.
    pub image: Digest,
    /// The driver that has its writable layer.
    pub driver: String,
    /// Its writable layer.
    pub layer: LayerId,
}

/// The uses of all containers. Fails where one cannot be read.
pub fn all(root: &Root) -> Result<Vec<Use>> {
    list(root)?.whole()
}

/// The uses of all containers that can be read.
pub fn list(root: &Root) -> Result<Listing<Use>> {
    let mut uses = Listing::new();
    for name in root::names(&root.containers())? {
        uses.add(read(&root.containers().join(name)))?;
    }
    Ok(uses)
}

fn read(directory: &Path) -> Result<Option<Use>> {
    let path = directory.join("config.json");
    let Some(text) = root::read_optional(&path, MAX_RECORD)? else {
        return Ok(None);
    };
    let found = serde_json::from_slice(&text);
    found.map(Some).map_err(|e| Error::damaged(format!("container record '{}'", path.display()), e))
}
