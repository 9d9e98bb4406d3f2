//! Layers made and deleted in step with the pool, so that a crash between any two steps loses nothing.
//!
//! *Making.* The record is written as an intent, with the transaction id that the pool will have; the pool makes the
//! volume; the layer's size and quota are set; the pool's transaction id is raised; the record becomes the layer's. A
//! crash before the raise is rolled back by [`recover`], one after it rolled forward. Volumes have the number of the
//! transaction that made them, so no number is used twice.
//!
//! *Deleting.* The record moves to those that are being deleted; the pool deletes the volume, which may be repeated;
//! the record is deleted.

use std::io;

use mica_core::{Error, LayerId, Result, failpoint};

use super::dm::Writes;
use super::pool::Pool;
use super::records::{Layer, Records};
use super::thin::MAX_VOLUME;

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
    let transaction = next_transaction(pool, records)?;
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
        pool.thin.set_transaction(transaction - 1, transaction).map_err(Error::io(doing))
    };
    if let Err(error) = made() {
        // What cannot be undone now is undone by the next open, since the intent stays.
        let _ = roll_back(pool, records, id, volume_of(transaction));
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
    let transaction = next_transaction(pool, records)?;
    let copy = volume_of(transaction);
    records.intend(id, &Layer { volume: copy, transaction, committed: false, ..layer.clone() })?;
    let made = pool.thin.snapshot(copy, layer.volume, writes).map_err(Error::io(doing));
    let done = made.and_then(|()| work(copy));
    let undone = roll_back(pool, records, id, copy);
    done.and_then(|done| undone.map(|()| done))
}

/// Begins to delete a layer. Returns what [`finish`] needs. The caller holds the lock.
pub(crate) fn take_away(records: &Records, id: &LayerId) -> Result<Layer> {
    let layer = records.layer(id)?;
    records.take_away(id).map_err(Error::io(|| format!("remove layer '{id}'")))?;
    Ok(layer)
}

/// Deletes the volume of a layer that was taken away, and is not active. The caller holds the lock.
pub(crate) fn finish(pool: &Pool, records: &Records, id: &LayerId, layer: &Layer) -> Result<()> {
    let doing = || format!("remove layer '{id}'");
    failpoint::hit("devmapper.remove.taken").map_err(Error::io(doing))?;
    pool.thin.delete(layer.volume).map_err(Error::io(doing))?;
    failpoint::hit("devmapper.remove.deleted").map_err(Error::io(doing))?;
    records.forget(id).map_err(Error::io(doing))
}

/// Finishes what a crash left. The caller holds the lock, so nobody alive is at it.
pub(crate) fn recover(pool: &Pool, records: &Records) -> Result<()> {
    records.tidy()?;
    let intended = records.intended()?;
    if !intended.is_empty() {
        let transaction = pool.thin.status()?.transaction;
        for (id, layer) in intended {
            if layer.transaction <= transaction {
                records.establish(&id).map_err(Error::io(|| format!("recover layer '{id}'")))?;
            } else {
                roll_back(pool, records, &id, layer.volume)?;
            }
        }
    }
    for (id, layer) in records.leaving()? {
        pool.thin.deactivate(layer.volume)?;
        match finish(pool, records, &id, &layer) {
            // Somebody has it open still, who may be the one that deletes it.
            Err(Error::Driver { source, .. }) if is_busy(source.as_ref()) => {}
            finished => finished?,
        }
    }
    Ok(())
}

fn roll_back(pool: &Pool, records: &Records, id: &LayerId, volume: u32) -> Result<()> {
    let doing = || format!("give up layer '{id}'");
    pool.thin.deactivate(volume)?;
    pool.thin.delete(volume).map_err(Error::io(doing))?;
    records.give_up(id).map_err(Error::io(doing))
}

/// The transaction that makes the next volume: one whose number nobody has.
fn next_transaction(pool: &Pool, records: &Records) -> Result<u64> {
    let mut is = pool.thin.status()?.transaction;
    if is >= u64::from(MAX_VOLUME) {
        // The numbers begin again, and those of layers that are there must be passed over.
        let taken = records.volumes()?;
        while taken.contains(&volume_of(is + 1)) || volume_of(is + 1) <= super::pool::BASE {
            let doing = || "raise the transaction id of the pool";
            pool.thin.set_transaction(is, is + 1).map_err(Error::io(doing))?;
            is += 1;
        }
    }
    Ok(is + 1)
}

fn volume_of(transaction: u64) -> u32 {
    (transaction & u64::from(MAX_VOLUME)) as u32
}

fn is_busy(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let number = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    number == Some(libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_numbers_of_24_bits() {
        assert_eq!(volume_of(5), 5);
        assert_eq!(volume_of(u64::from(MAX_VOLUME) + 6), 5);
    }
}
