//! How full the pool is, and what follows from it.

use std::fs::File;
use std::io;
use std::process::{Command, Stdio};

use mica_core::{Error, LayerId, Result, Usage};

use super::dm::{Device, DeviceMapper};
use super::pool::{self, METADATA_BLOCK, Pool};
use super::records::Layer;
use super::replay::replay;
use super::thin::{Health, Status};
use super::{delta, sys};
use crate::options::{Backing, Kind, Options, size};

/// Fails with `Unavailable` where the host lacks device mapper, its thin pools, or the tools of the file system.
pub(crate) fn needed(kind: Kind) -> Result<()> {
    let lacking = |reason: String| Error::Unavailable { reason };
    let dm = DeviceMapper::open().map_err(|e| pool::unavailable(&e))?;
    let there = || dm.target("thin-pool").map_err(|e| pool::unavailable(&e));
    if there()?.is_none() {
        // Where modules can be loaded this is all that it takes; where not, it changes nothing.
        let load = Command::new("modprobe").args(["-q", "dm-thin-pool"]).stdin(Stdio::null()).status();
        drop(load);
        if there()?.is_none() {
            return Err(lacking(
                "device mapper has no thin pools: it needs the kernel module dm_thin_pool".to_owned(),
            ));
        }
    }
    let mkfs = format!("mkfs.{}", kind.name());
    let dirs = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).chain(dirs.into_iter().map(Into::into));
    if all.any(|dir| dir.join(&mkfs).exists()) {
        return Ok(());
    }
    let package = if kind == Kind::Xfs { "xfsprogs" } else { "e2fsprogs" };
    Err(lacking(format!("{mkfs} is not installed; Debian has it in {package}")))
}

/// Fails unless the pool can take another layer. The caller holds the lock.
pub(crate) fn admit(pool: &Pool, options: &Options) -> Result<()> {
    pool.grow(pool.record.base_size / 8, options.file_size())?;
    let status = pool.thin.status()?;
    takes_writes(pool, &status)?;
    let part = |total: u64| total * u64::from(options.min_free) / 100;
    let lacking = |what: &str, free: u64, total: u64, cure: &str| {
        Err(Error::NoSpace {
            doing: format!(
                "the pool '{}' has {free} of {total} blocks of {what} free, and 'min_free' keeps {} %: {cure}",
                pool.thin.name(),
                options.min_free,
            ),
        })
    };
    let free = pool.free_blocks(&status)?;
    if free < part(status.data.total).max(1) {
        let cure = match pool.record.backing {
            Backing::Files if free < status.data.free() => {
                "remove something, or make room on the disk of its files"
            }
            Backing::Files => "remove something, or raise 'file_size'",
            _ => "remove something, or enlarge it",
        };
        return lacking("data", free, status.data.total, cure);
    }
    let (free, total) = (status.metadata.free(), status.metadata.total);
    if free < part(total).max(status.metadata_reserve) {
        return lacking("metadata", free, total, "remove something, or enlarge its metadata");
    }
    Ok(())
}

/// Fails unless volumes of the pool can be written. The caller holds the lock.
pub(crate) fn takes_writes(pool: &Pool, status: &Status) -> Result<()> {
    if status.health == Health::Good { Ok(()) } else { Err(unwritable(pool, status.health)) }
}

/// Fails unless volumes can be deleted: a full pool takes that, one whose metadata cannot be written does not. The caller
/// holds the lock.
pub(crate) fn takes_deletions(pool: &Pool) -> Result<()> {
    let health = pool.thin.status()?.health;
    if health.takes_changes() { Ok(()) } else { Err(unwritable(pool, health)) }
}

fn unwritable(pool: &Pool, health: Health) -> Error {
    let (name, told) = (pool.thin.name(), health.told());
    let reason = match health {
        Health::OutOfSpace | Health::OutOfMetadata => {
            return Error::NoSpace { doing: format!("the pool '{name}' is {told}") };
        }
        Health::NeedsCheck => format!("it is {told}: {}", how_to_check(pool)),
        _ => format!("it is {told}"),
    };
    Error::Corrupt { what: format!("the pool '{name}'"), reason }
}

/// Fails unless all that was written to a layer is in it. The caller holds the lock, and nothing is mounted.
pub(crate) fn whole(pool: &Pool, layer: &Layer, id: &LayerId) -> Result<()> {
    takes_writes(pool, &pool.thin.status()?)?;
    let doing = || format!("look at the file system of layer '{id}'");
    let filesystem = pool.record.filesystem;
    let look = |device: &Device| {
        let is_sound = filesystem.is_sound(&device.node()).map_err(Error::io(doing))?;
        if is_sound {
            // A copy of what was mounted has something in its log still, which its children are compared without.
            replay(pool, device)?;
        }
        Ok(is_sound)
    };
    if pool.thin.with_active(layer.volume, layer.bytes, look)? {
        return Ok(());
    }
    let reason = "its file system met an error, so what was written last may be missing".to_owned();
    Err(Error::Corrupt { what: format!("layer '{id}'"), reason })
}

/// Returns when all that volumes hold, and that they are there, survives a power cut. The caller holds the lock.
pub(crate) fn flush(pool: &Pool) -> Result<()> {
    let doing = || format!("flush the pool '{}'", pool.thin.name());
    let flush = || {
        File::open(pool.data_node()?)?.sync_all()?;
        // Any message has the kernel write the metadata; this one changes nothing else.
        let is = pool.thin.status().map_err(io::Error::other)?.transaction;
        pool.thin.set_transaction(is, is)
    };
    flush().map_err(Error::io(doing))
}

/// What a layer's volume has that its parent's has not. The caller holds the lock.
pub(crate) fn usage(pool: &Pool, parent: u32, layer: &Layer) -> Result<Usage> {
    let bytes = match delta::blocks(pool, parent, layer.volume)? {
        Some(ranges) => {
            ranges.iter().map(|range| range.end - range.start).sum::<u64>() * pool.record.block_size
        }
        None => {
            let mapped = |volume, bytes| pool.thin.with_active(volume, bytes, |_| pool.thin.mapped(volume));
            mapped(layer.volume, layer.bytes)?.saturating_sub(mapped(parent, layer.bytes)?)
        }
    };
    Ok(Usage { bytes, inodes: None })
}

/// Gives the blocks of a volume that is about to be deleted back to what the pool is made on: deleting a volume alone
/// keeps them in the pool. The caller holds the lock.
pub(crate) fn discard(pool: &Pool, layer: &Layer, options: &Options) -> Result<()> {
    let wanted = options.discard.unwrap_or(pool.record.backing == Backing::Files);
    if !wanted || !pool.thin.status()?.health.takes_changes() {
        return Ok(());
    }
    pool.thin.with_active(layer.volume, layer.bytes, |device| {
        // Only space is lost where this fails, and removing must go on.
        let _ = sys::discard(&device.node());
        Ok(())
    })
}

/// What is wrong with the pool, for `mica storage check`. The caller holds the lock.
pub(crate) fn check(pool: &Pool) -> Result<Vec<String>> {
    let health = pool.thin.status()?.health;
    let name = pool.thin.name();
    Ok(match health {
        Health::Good => Vec::new(),
        Health::NeedsCheck => vec![format!(
            "the kernel could not write the metadata of the pool '{name}' whole, and lets nobody write to it before they \
             are checked: {}",
            how_to_check(pool)
        )],
        _ => vec![format!("the pool '{name}' is {}", health.told())],
    })
}

/// What thin_check(8) is for: the kernel sets a mark in the metadata, and the tool takes that away once it has looked
/// through all of them.
fn how_to_check(pool: &Pool) -> String {
    match pool.metadata_at_rest() {
        Some(path) => format!(
            "stop all containers; 'thin_check --clear-needs-check-flag {0}' says whether the metadata are sound, and lets them \
             be written again if they are; if not, 'thin_repair -i {0} -o NEW' saves what can be read to a new place",
            path.display()
        ),
        None => "its owner has to do that; for a pool of LVM, 'lvconvert --repair' does".to_owned(),
    }
}

/// What `mica info` shows.
pub(crate) fn status(pool: &Pool) -> Result<Vec<(String, String)>> {
    let status = pool.thin.status()?;
    let block = pool.record.block_size;
    let rows = [
        ("Pool Name", pool.thin.name().to_owned()),
        ("Pool State", status.health.told().to_owned()),
        ("Backing", pool.record.backing.to_string()),
        ("Backing Filesystem", pool.record.filesystem.name().to_owned()),
        ("Block Size", size(block)),
        ("Base Size", size(pool.record.base_size)),
        ("Data Used", size(status.data.used * block)),
        ("Data Total", size(status.data.total * block)),
        ("Metadata Used", size(status.metadata.used * METADATA_BLOCK)),
        ("Metadata Total", size(status.metadata.total * METADATA_BLOCK)),
        ("Transaction Id", status.transaction.to_string()),
        ("Native Diff", if delta::tool() { "true" } else { "false: thin_delta is not installed" }.to_owned()),
    ];
    Ok(rows.map(|(name, value)| (name.to_owned(), value)).into())
}
