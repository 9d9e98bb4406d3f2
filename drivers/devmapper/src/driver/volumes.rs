//! Layers made and deleted in step with the pool, so that a crash between any two steps loses nothing.
//!
//! *Making.* The record is written as an intent, with the transaction id that the pool will have; the pool makes the
//! volume; the layer's size and quota are set; the pool's transaction id is raised; the record becomes the layer's. A
//! crash before the raise is rolled back by [`recover`], one after it rolled forward: both before anybody makes the next
//! layer. Volumes have the number of the transaction that made them, so no number is used twice.
//!
//! *Deleting.* The record moves to those that are being deleted; the pool deletes the volume, which may be repeated;
//! the record is deleted.

use std::collections::HashSet;
use std::io;

use mica_core::{Chain, Error, LayerId, Result, failpoint};

use super::dm::Writes;
use super::pool::{BASE, Pool};
use super::records::{Layer, Records};
use super::thin::MAX_VOLUME;
use crate::options::Backing;

/// What a new layer's volume is a snapshot of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) volume: u32,
    pub(crate) bytes: u64,
    /// The file system keeps a quota, which is not the new layer's.
    pub(crate) limited: bool,
    pub(crate) writes: Writes,
}

/// Makes a layer. `settle` gives its volume what it is to have beside the content of its origin; where it fails, nothing is
/// left. The caller holds the lock.
pub(crate) fn make(
    pool: &Pool,
    records: &Records,
    id: &LayerId,
    origin: Origin,
    settle: impl FnOnce(&mut Layer) -> Result<()>,
) -> Result<()> {
    let doing = || format!("create layer '{id}'");
    let (is, transaction) = next_transaction(pool, records)?;
    let mut layer = Layer {
        volume: volume_of(transaction),
        transaction,
        bytes: origin.bytes,
        committed: false,
        limited: false,
    };
    records.intend(id, &layer)?;
    let made = || {
        failpoint::hit("devmapper.create.intended").map_err(Error::io(doing))?;
        pool.thin.snapshot(layer.volume, origin.volume, origin.writes).map_err(Error::io(doing))?;
        failpoint::hit("devmapper.create.made").map_err(Error::io(doing))?;
        let before = layer.clone();
        settle(&mut layer)?;
        if layer != before {
            records.intend(id, &layer)?;
        }
        failpoint::hit("devmapper.create.settled").map_err(Error::io(doing))?;
        pool.thin.set_transaction(is, transaction).map_err(Error::io(doing))
    };
    if let Err(error) = made() {
        // What cannot be undone now is undone by the next call, since the intent stays.
        let _ = roll_back(pool, records, id, &layer);
        return Err(error);
    }
    failpoint::hit("devmapper.create.raised").map_err(Error::io(doing))?;
    records.establish(id).map_err(Error::io(doing))
}

/// Does something with a copy of a layer's volume, which is gone afterwards: it is an intent that is given up. The
/// caller holds the lock.
pub(crate) fn with_copy<T>(
    pool: &Pool,
    records: &Records,
    id: &LayerId,
    layer: &Layer,
    writes: Writes,
    work: impl FnOnce(u32) -> Result<T>,
) -> Result<T> {
    let doing = || format!("copy layer '{id}' for a moment");
    let (_, transaction) = next_transaction(pool, records)?;
    let copy = volume_of(transaction);
    let passing = layer.passing(copy);
    records.intend(id, &passing)?;
    let made = || {
        pool.thin.snapshot(copy, layer.volume, writes).map_err(Error::io(doing))?;
        failpoint::hit("devmapper.changes.copied").map_err(Error::io(doing))
    };
    let done = made().and_then(|()| work(copy));
    let undone = roll_back(pool, records, id, &passing);
    done.and_then(|done| undone.map(|()| done))
}

/// Begins to delete a layer. Returns what [`finish`] needs. The caller holds the lock.
pub(crate) fn take_away(records: &Records, id: &LayerId) -> Result<Layer> {
    let layer = records.layer(id)?;
    records.take_away(id, &layer).map_err(Error::io(|| format!("remove layer '{id}'")))?;
    Ok(layer)
}

/// Deletes the volume of a layer that was taken away, and is not active. The caller holds the lock.
pub(crate) fn finish(pool: &Pool, records: &Records, layer: &Layer) -> Result<()> {
    let doing = || format!("delete volume {} of the pool '{}'", layer.volume, pool.thin.name());
    pool.thin.delete(layer.volume).map_err(Error::io(doing))?;
    failpoint::hit("devmapper.remove.deleted").map_err(Error::io(doing))?;
    records.forget(layer)
}

/// Finishes what was begun by somebody who was killed, or could not finish it. The caller holds the lock, so nobody alive is
/// at it.
pub(crate) fn recover(pool: &Pool, records: &Records) -> Result<()> {
    let (intended, leaving) = (records.intended()?, records.leaving()?);
    if intended.is_empty() && leaving.is_empty() {
        return Ok(());
    }
    let status = pool.thin.status()?;
    if !status.health.takes_changes() {
        return Ok(());
    }
    if !intended.is_empty() {
        pool.thin.resume_all()?;
    }
    for (id, layer) in intended {
        let doing = || format!("recover layer '{id}'");
        if layer.transaction > status.transaction {
            roll_back(pool, records, &id, &layer)?;
        } else if records.exists(&id) {
            // The intent came back with a power cut.
            records.give_up(&id).map_err(Error::io(doing))?;
        } else {
            records.establish(&id).map_err(Error::io(doing))?;
        }
    }
    for layer in leaving {
        pool.thin.deactivate(layer.volume)?;
        match finish(pool, records, &layer) {
            // Somebody has it open still.
            Err(error) if has_number(&error, libc::EBUSY) => {}
            finished => finished?,
        }
    }
    Ok(())
}

fn roll_back(pool: &Pool, records: &Records, id: &LayerId, layer: &Layer) -> Result<()> {
    let doing = || format!("give up layer '{id}'");
    pool.thin.deactivate(layer.volume)?;
    match pool.thin.delete(layer.volume) {
        // A process that was killed may still be letting go of it, and udev may be looking at it: it is deleted later.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            records.postpone(layer).map_err(Error::io(doing))?;
        }
        deleted => deleted.map_err(Error::io(doing))?,
    }
    records.give_up(id).map_err(Error::io(doing))
}

/// The transaction id of the pool, and the one that makes the next volume: the first whose number nobody has.
fn next_transaction(pool: &Pool, records: &Records) -> Result<(u64, u64)> {
    let is = pool.thin.status()?.transaction;
    let taken: HashSet<u32> = if is < u64::from(MAX_VOLUME) {
        // Only what was given up, and could not be deleted yet, has a number that is to come.
        records.leaving()?.into_iter().map(|layer| layer.volume).collect()
    } else {
        // The numbers begin again.
        records.volumes()?.into_iter().collect()
    };
    let full = || Error::Full { what: "the pool".to_owned(), limit: format!("{MAX_VOLUME} volumes") };
    Ok((is, first_free(is, &taken).ok_or_else(full)?))
}

/// The first transaction after this one whose number is nobody's.
fn first_free(is: u64, taken: &HashSet<u32>) -> Option<u64> {
    let mut all = is + 1..=is + u64::from(MAX_VOLUME);
    all.find(|transaction| {
        let volume = volume_of(*transaction);
        volume > BASE && !taken.contains(&volume)
    })
}

fn volume_of(transaction: u64) -> u32 {
    (transaction & u64::from(MAX_VOLUME)) as u32
}

/// Puts away what killed processes have left active. The caller holds the lock, and nobody else has the root open.
pub(crate) fn put_away(pool: &Pool) -> Result<()> {
    pool.thin.resume_all()?;
    pool.thin.deactivate_idle()?;
    // Of a pool that somebody made it may be theirs.
    let is_shared = matches!(pool.record.backing, Backing::Pool { .. });
    let status = pool.thin.status()?;
    if status.metadata_snapshot && status.health.takes_changes() && !is_shared {
        let released = pool.thin.dm().message(pool.thin.name(), "release_metadata_snap");
        released.map_err(Error::io(|| "release a snapshot of the pool's metadata"))?;
    }
    Ok(())
}

/// Names the layer where something failed since the pool has no volume of it, or of its parent.
pub(crate) fn explain(pool: &Pool, records: &Records, chain: Chain<'_>, error: Error) -> Error {
    if !matches!(error, Error::Driver { .. }) {
        return error;
    }
    let is_missing = |layer: &Layer| {
        let looked = pool.thin.with_active(layer.volume, layer.bytes, |_| Ok(()));
        looked.is_err_and(|error| is_lacking(&error))
    };
    for id in chain.parent().into_iter().chain([chain.id]) {
        match records.layer(id) {
            Ok(layer) if is_missing(&layer) => {
                return Error::Corrupt {
                    what: format!("layer '{id}'"),
                    reason: format!(
                        "the pool '{}' has no volume {}, which held it; remove the layer, or put back the pool that \
                         has it",
                        pool.thin.name(),
                        layer.volume
                    ),
                };
            }
            _ => {}
        }
    }
    error
}

/// Whether something failed since the pool has no such volume.
pub(crate) fn is_lacking(error: &Error) -> bool {
    has_number(error, libc::ENODATA)
}

fn has_number(error: &Error, number: i32) -> bool {
    let Error::Driver { source, .. } = error else { return false };
    source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_numbers_of_24_bits() {
        assert_eq!(volume_of(5), 5);
        assert_eq!(volume_of(u64::from(MAX_VOLUME) + 6), 5);
    }

    #[test]
    fn numbers_that_begin_again_pass_over_those_of_layers() {
        let last = u64::from(MAX_VOLUME);
        let next = |is, taken: &[u32]| first_free(is, &taken.iter().copied().collect());
        assert_eq!(next(last, &[]), Some(last + 3));
        assert_eq!(next(last, &[2, 3, 5]), Some(last + 5));
        assert_eq!(next(last + 5, &[2, 3, 5]), Some(last + 7));
    }
}
