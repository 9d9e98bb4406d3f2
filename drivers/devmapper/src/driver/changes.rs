//! Where a layer differs from its parent, from the pool's metadata and the inodes in the blocks that differ.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use mica_core::{Error, LayerId, Result, Trees, failpoint};

use super::dm::Writes;
use super::inodes::{Changed, Pair};
use super::pool::Pool;
use super::records::{Layer, Records};
use super::replay::replay;
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
    if layer.committed {
        return compare(pool, parent, here);
    }
    if !pool.thin.is_active(layer.volume)? {
        pool.thin.with_active(layer.volume, layer.bytes, |device| replay(pool, device))?;
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
        .map(|blocks| {
            let at = |block: u64| block.saturating_mul(pool.record.block_size);
            at(blocks.start)..at(blocks.end)
        })
        .collect();
    failpoint::hit("devmapper.changes.compared").map_err(Error::io(doing))?;
    pool.thin.with_active(parent.number, parent.bytes, |parent| {
        pool.thin.with_active(layer.number, layer.bytes, |layer| {
            let pair = Pair::open(&parent.node(), &layer.node());
            pair.and_then(|pair| pair.changed(pool.record.filesystem, &bytes)).map_err(Error::io(doing))
        })
    })
}

/// Adds what came to another path: with a directory that was moved, whose own inode changed but nothing below it, or by
/// an exchange of two names, for which xfs changes no inode of a file. Looks only at names, and at those of the parent only
/// in directories that changed.
pub(crate) fn with_moved(changed: &[Changed], trees: &dyn Trees) -> Result<HashSet<u64>> {
    let mut all: HashSet<u64> = changed.iter().map(|inode| inode.number).collect();
    let directories: HashSet<u64> =
        changed.iter().filter(|inode| inode.directory).map(|inode| inode.number).collect();
    if directories.is_empty() {
        // Neither tree needs to be mounted.
        return Ok(all);
    }
    if let Some(parent) = trees.parent()? {
        let layer = trees.layer()?;
        let root = fs::metadata(layer).map_err(Error::io(|| "look at a layer's root"))?;
        let listed = directories.contains(&root.ino());
        walk(layer, parent, listed, &directories, &mut all)
            .map_err(Error::io(|| "read the directories of a layer"))?;
    }
    Ok(all)
}

/// Walks a directory that has its parent's path and number; `listed` says whether its names may differ.
fn walk(
    layer: &Path,
    parent: &Path,
    listed: bool,
    directories: &HashSet<u64>,
    all: &mut HashSet<u64>,
) -> io::Result<()> {
    let before = if listed { Some(names(parent)?) } else { None };
    for (name, named) in names(layer)? {
        let came = before.as_ref().is_some_and(|before| before.get(&name) != Some(&named));
        if came {
            all.insert(named.number);
        }
        match (named.directory, came) {
            (false, _) => {}
            (true, true) => everything(&layer.join(&name), all)?,
            (true, false) => {
                let listed = directories.contains(&named.number);
                walk(&layer.join(&name), &parent.join(&name), listed, directories, all)?;
            }
        }
    }
    Ok(())
}

/// What a directory says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    number: u64,
    directory: bool,
}

fn names(dir: &Path) -> io::Result<HashMap<OsString, Named>> {
    let named = |entry: fs::DirEntry| {
        let named = Named { number: entry.ino(), directory: entry.file_type()?.is_dir() };
        Ok((entry.file_name(), named))
    };
    fs::read_dir(dir)?.map(|entry| entry.and_then(named)).collect()
}

fn everything(dir: &Path, all: &mut HashSet<u64>) -> io::Result<()> {
    for (name, named) in names(dir)? {
        all.insert(named.number);
        if named.directory {
            everything(&dir.join(name), all)?;
        }
    }
    Ok(())
}
