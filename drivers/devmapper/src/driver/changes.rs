//! Where a layer differs from its parent, from the pool's metadata and the inodes in the blocks that differ.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;

use mica_core::{Error, LayerId, Result, Trees, failpoint};

use super::dm::Writes;
use super::inodes::{Changed, Pair};
use super::pool::Pool;
use super::records::{Layer, Records};
use super::{delta, volumes};

/// A volume with its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) number: u32,
    pub(crate) bytes: u64,
}

/// The inodes of a layer that are not its parent's; `None` where that cannot be told. The caller holds the lock.
pub(crate) fn inodes(
    pool: &Pool,
    records: &Records,
    id: &LayerId,
    parent: Volume,
    layer: &Layer,
) -> Result<Option<Vec<Changed>>> {
    let here = Volume { number: layer.volume, bytes: layer.bytes };
    if layer.committed || !pool.thin.is_active(layer.volume)? {
        return compare(pool, parent, here);
    }
    // What is mounted changes, and holds much in memory: a copy of a moment at which it was settled is looked at.
    volumes::with_copy(pool, records, id, layer, Writes::Settled, |copy| {
        compare(pool, parent, Volume { number: copy, ..here })
    })
}

fn compare(pool: &Pool, parent: Volume, layer: Volume) -> Result<Option<Vec<Changed>>> {
    let doing = || format!("compare volume {} with {}", layer.number, parent.number);
    let Some(blocks) = delta::blocks(pool, parent.number, layer.number)? else { return Ok(None) };
    if blocks.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let bytes: Vec<_> = blocks
        .into_iter()
        .map(|range| range.start * pool.record.block_size..range.end * pool.record.block_size)
        .collect();
    failpoint::hit("devmapper.changes.compared").map_err(Error::io(doing))?;
    pool.thin.with_active(parent.number, parent.bytes, |parent| {
        pool.thin.with_active(layer.number, layer.bytes, |layer| {
            let pair = Pair::open(&parent.node(), &layer.node());
            pair.and_then(|pair| pair.changed(pool.record.filesystem, &bytes)).map_err(Error::io(doing))
        })
    })
}

/// Adds what came to another path with a directory that was moved: its own inode and its new parent's changed, but
/// nothing below it. Looks only at names, and at those of the parent only in directories that changed.
pub(crate) fn with_moved(changed: &[Changed], trees: &dyn Trees) -> Result<HashSet<u64>> {
    let mut all: HashSet<u64> = changed.iter().map(|inode| inode.number).collect();
    let directories: HashSet<u64> =
        changed.iter().filter(|inode| inode.directory).map(|inode| inode.number).collect();
    if let (false, Some(parent)) = (directories.is_empty(), trees.parent()?) {
        let layer = trees.layer()?;
        let root = fs::metadata(layer).map_err(Error::io(|| "look at a layer's root"))?;
        let number = std::os::unix::fs::MetadataExt::ino(&root);
        walk(layer, parent, directories.contains(&number), &directories, &mut all)
            .map_err(Error::io(|| "read the directories of a layer"))?;
    }
    Ok(all)
}

/// Walks a directory that has its parent's path and number; `changed` says whether its names may differ.
fn walk(
    layer: &Path,
    parent: &Path,
    changed: bool,
    directories: &HashSet<u64>,
    all: &mut HashSet<u64>,
) -> io::Result<()> {
    let before = if changed { Some(subdirectories(parent)?) } else { None };
    for (name, number) in subdirectories(layer)? {
        let came = before.as_ref().is_some_and(|before| before.get(&name) != Some(&number));
        if came {
            everything(&layer.join(&name), all)?;
        } else {
            walk(&layer.join(&name), &parent.join(&name), directories.contains(&number), directories, all)?;
        }
    }
    Ok(())
}

fn subdirectories(dir: &Path) -> io::Result<HashMap<OsString, u64>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.insert(entry.file_name(), entry.ino());
        }
    }
    Ok(found)
}

fn everything(dir: &Path, all: &mut HashSet<u64>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        all.insert(entry.ino());
        if entry.file_type()?.is_dir() {
            everything(&entry.path(), all)?;
        }
    }
    Ok(())
}
