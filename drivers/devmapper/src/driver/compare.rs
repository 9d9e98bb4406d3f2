//! The pool compared with the records, when a process opens it first.
//!
//! What a crash leaves is known from the records alone. What only looks like it is found here, and told: an older state of the
//! pool, an older state of the root, a second root on the same pool. Nothing is changed then.

use std::collections::HashSet;
use std::path::Path;

use mica_core::{Error, Result};

use super::pool::{BASE, Pool};
use super::records::Records;
use super::thin::Health;

/// Fails with `Corrupt` where pool and records cannot be of the same moment. The caller holds the lock.
pub(crate) fn check(pool: &Pool, records: &Records, root: &Path) -> Result<()> {
    let status = pool.thin.status()?;
    // What is wrong with such a pool or record is told to whoever uses it; the others can be read.
    let Some(Ends { made, named, newest }) = ends(records)?.filter(|_| status.health != Health::Failed)
    else {
        return Ok(());
    };
    let damaged = |reason| Err(Error::Corrupt { what: format!("the pool '{}'", pool.thin.name()), reason });
    let is = status.transaction;
    if is < made {
        return damaged(format!(
            "it is at transaction {is}, and {named} was made by {made}: an older state of it was put in place; put the \
             newer one back, or, to go on without what it lacks, have thin_repair write it with '--transaction-id {made}'"
        ));
    }
    if is > newest {
        return damaged(format!(
            "it is at transaction {is}, and the layers of '{}' end with {newest}: another root uses it too, or this root is \
             an older state; put the newer one back, or, to delete what this root does not know, have thin_repair write \
             the pool's metadata with '--transaction-id {newest}'",
            root.display()
        ));
    }
    Ok(())
}

/// Deletes the volumes that no record names, where the pool was not active and has none but ours. The caller holds the
/// lock, and what a crash left is finished.
pub(crate) fn free_leaked(pool: &Pool, records: &Records) -> Result<()> {
    let Some(found) = &pool.found else { return Ok(()) };
    let status = pool.thin.status()?;
    let Some(named) = readable(records.volumes())?.filter(|_| status.health.takes_changes()) else {
        return Ok(());
    };
    let named: HashSet<u32> = named.into_iter().chain([BASE]).collect();
    for volume in found.iter().filter(|volume| !named.contains(volume)) {
        pool.thin.delete(*volume).map_err(Error::io(|| {
            format!("delete volume {volume} of the pool '{}', which is no layer's", pool.thin.name())
        }))?;
    }
    Ok(())
}

/// The transactions that the records tell of.
struct Ends {
    /// The last that is known to have happened, and whose it was.
    made: u64,
    named: String,
    /// The last that may have happened.
    newest: u64,
}

fn ends(records: &Records) -> Result<Option<Ends>> {
    let read = || {
        let layers =
            records.layers()?.into_iter().map(|(id, layer)| (layer.transaction, format!("layer '{id}'")));
        let deleted = records.leaving()?.into_iter().chain(records.newest_deleted()?);
        let deleted =
            deleted.filter_map(|layer| Some((layer.made_by()?, "a layer that is deleted".to_owned())));
        let base = (u64::from(BASE), "the base volume".to_owned());
        let (made, named) =
            layers.chain(deleted).fold(base, |most, one| if one.0 > most.0 { one } else { most });
        let intended = records.intended()?.into_iter().filter_map(|(_, layer)| layer.made_by());
        Ok(Ends { made, named, newest: intended.fold(made, u64::max) })
    };
    readable(read())
}

/// `None` where a record is damaged.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(Error::Corrupt { .. }) => Ok(None),
        read => read.map(Some),
    }
}
