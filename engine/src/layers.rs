//! The records of image layers: what a layer is, what it stands on, and which drivers have it.
//!
//! A record is a directory in `layers/`, named by the layer's chain, that appears whole by one rename. It holds
//! `layer.json` and the *split*: what it takes to give the layer's tarball back byte for byte.

mod fill;
mod fit;
mod init;
mod provide;
mod reproduce;

pub(crate) use provide::{Consume, Tarballs};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mica_archive::Digest;
use mica_core::{Committed, Layer, LayerId, durable};
use serde::{Deserialize, Serialize};

use crate::chain::ChainId;
use crate::image;
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
    /// It hides everything below it, and is mounted without it: overlayfs does not honour that mark on a root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opaque: bool,
    /// It was applied without the attributes that the host cannot have, and may be again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lenient: bool,
    /// Under which id each driver has it, committed and synced.
    pub drivers: BTreeMap<String, LayerId>,
    /// The layer of mount points and empty files that containers stand on, where one was made on top of this layer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub init: BTreeMap<String, LayerId>,
    /// Where the links of the image lead with what that layer is made of; absent: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_elsewhere: Option<BTreeSet<String>>,
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
pub fn write(directory: &Path, record: &Record) -> Result<()> {
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

/// How many layers of `chain`, from the base on, this driver has without a gap.
pub fn held_by(root: &Root, chain: &[ChainId], driver: &str) -> Result<usize> {
    for (count, id) in chain.iter().enumerate() {
        if !read(root, id)?.is_some_and(|record| record.drivers.contains_key(driver)) {
            return Ok(count);
        }
    }
    Ok(chain.len())
}

/// The last layer of `chain` in this driver, with those below it that it is mounted with; `None` where the driver
/// lacks one of them.
pub fn committed(root: &Root, chain: &[ChainId], driver: &str) -> Result<Option<Layer<Committed>>> {
    let mut ids = Vec::with_capacity(chain.len());
    for id in chain.iter().rev() {
        let Some(mut record) = read(root, id)? else { return Ok(None) };
        let Some(layer) = record.drivers.remove(driver) else { return Ok(None) };
        ids.push(layer);
        if record.opaque {
            break;
        }
    }
    let mut ids = ids.into_iter();
    Ok(ids.next().map(|top| Layer::recorded(top, ids.collect())))
}

/// The chain that ends with this layer, the base first.
pub fn ancestry(root: &Root, top: &ChainId) -> Result<Vec<ChainId>> {
    let mut chain = vec![*top];
    let mut next = record(root, top)?.parent;
    while let Some(id) = next {
        if chain.len() > image::MAX_LAYERS {
            return Err(Error::damaged(format!("layer '{top}'"), "its parents have no end"));
        }
        chain.push(id);
        next = record(root, &id)?.parent;
    }
    chain.reverse();
    Ok(chain)
}

/// The record of a layer that must be there.
pub fn record(root: &Root, chain: &ChainId) -> Result<Record> {
    read(root, chain)?.ok_or_else(|| Error::damaged(format!("layer '{chain}'"), "its record is missing"))
}
