//! The records of image layers: what a layer is, what it stands on, and which drivers have it.
//!
//! A record is a directory in `layers/`, named by the layer's chain, that appears whole by one rename. It holds
//! `layer.json` and the *split*: what it takes to give the layer's tarball back byte for byte.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mica_archive::Digest;
use mica_core::{Committed, Layer, LayerId, durable};
use serde::{Deserialize, Serialize};

use crate::chain::ChainId;
use crate::root::{self, Root};
use crate::{Error, Result};

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;

/// What is known of an image layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The digest of its uncompressed tarball.
    pub diff_id: Digest,
    /// What it stands on.
    pub parent: Option<ChainId>,
    /// The bytes of the files in it.
    pub size: u64,
    /// The length of its uncompressed tarball.
    pub tar_size: u64,
    /// Under which id each driver has it, committed and synced.
    pub drivers: BTreeMap<String, LayerId>,
    /// The layer of mount points and empty files that containers stand on, where one was made on top of this layer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub init: BTreeMap<String, LayerId>,
}

impl Record {
    /// Every layer of a driver that this record names, those that stand on others first.
    pub fn held(&self) -> impl Iterator<Item = (&String, &LayerId)> {
        self.init.iter().chain(&self.drivers)
    }
}

/// The directory of a record.
pub fn directory(root: &Root, chain: &ChainId) -> PathBuf {
    root.layers().join(chain.hex())
}

/// The file from which the layer's tarball is put together again.
pub fn split(root: &Root, chain: &ChainId) -> PathBuf {
    directory(root, chain).join("split")
}

/// The record of a layer, if there is one.
pub fn read(root: &Root, chain: &ChainId) -> Result<Option<Record>> {
    let path = directory(root, chain).join("layer.json");
    let Some(text) = root::read_optional(&path, MAX_RECORD)? else {
        return Ok(None);
    };
    let record = serde_json::from_slice(&text);
    record.map(Some).map_err(|e| Error::damaged(format!("'{}'", path.display()), e))
}

/// Replaces the content of a record; its directory exists. Whoever changes one holds the root's lock from reading to
/// writing.
pub fn write(directory: &std::path::Path, record: &Record) -> Result<()> {
    let path = directory.join("layer.json");
    let failed = || format!("write '{}'", path.display());
    let text = serde_json::to_vec_pretty(record).map_err(|e| Error::io(failed)(e.into()))?;
    durable::write(&path, &text).map_err(Error::io(failed))
}

/// The chains that have a record.
pub fn chains(root: &Root) -> Result<Vec<ChainId>> {
    Ok(root::names(&root.layers())?.iter().filter_map(|name| ChainId::from_hex(name)).collect())
}

/// All records.
pub fn all(root: &Root) -> Result<BTreeMap<ChainId, Record>> {
    let mut records = BTreeMap::new();
    for chain in chains(root)? {
        if let Some(record) = read(root, &chain)? {
            records.insert(chain, record);
        }
    }
    Ok(records)
}

/// The layers of `chain`, the base first, as far as this driver has them without a gap.
pub fn in_driver(root: &Root, chain: &[ChainId], driver: &str) -> Result<Vec<LayerId>> {
    let mut ids = Vec::with_capacity(chain.len());
    for id in chain {
        match read(root, id)?.and_then(|mut record| record.drivers.remove(driver)) {
            Some(layer) => ids.push(layer),
            None => break,
        }
    }
    Ok(ids)
}

/// The last of these committed layers, which are given base first, with the others below it.
pub fn top(ids: &[LayerId]) -> Option<Layer<Committed>> {
    let (top, below) = ids.split_last()?;
    Some(Layer::recorded(top.clone(), below.iter().rev().cloned().collect()))
}
