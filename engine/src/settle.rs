//! Settling an intent, and what garbage is: layers that no record names, records that no image needs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use mica_archive::Digest;
use mica_core::{LayerId, failpoint};

use crate::chain::ChainId;
use crate::intent::{self, Intent, Line};
use crate::layers::{self, Record};
use crate::lock::Lock;
use crate::root::{self, Root};
use crate::tags::Tags;
use crate::transaction::Kept;
use crate::{Engine, Error, Result, images, uses};

impl Engine {
    /// Settles the intents of processes that are gone; returns what could not be done.
    pub(crate) fn recover(&self) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if let Err(error) = mica_mount::sweep(&self.root().tmp()) {
            warnings.push(format!("cannot unmount what a command left that was killed: {error}"));
        }
        let dead = intent::dead(self.root())?;
        if dead.is_empty() {
            return Ok(warnings);
        }
        self.remove_free_locks()?;
        for intent in dead {
            let what = doing(&intent.lines());
            if let Err(error) = self.freeing(|| self.settle(intent, None)) {
                warnings.push(format!("cannot clean up after '{what}' yet: {error}"));
            }
        }
        Ok(warnings)
    }

    /// Removes the files of locks that were held by who is gone.
    fn remove_free_locks(&self) -> Result<()> {
        let root = self.root();
        for name in root::names(&root.locks())? {
            if let Some(lock) = Lock::now(&root.locks().join(name))? {
                lock.remove()?;
            }
        }
        Ok(())
    }

    /// Ends an intent. `kept` is what is known to be recorded; without it, after a failure or a crash, all records are read.
    ///
    /// Every step can be done again: after a crash on the way the next one goes on.
    pub(crate) fn settle(&self, intent: Intent, kept: Option<&Kept>) -> Result<()> {
        let root = self.root();
        let mut doomed = self.condemn(&intent, kept)?;
        failpoint::hit("settle.condemned").map_err(Error::io(|| "tidy up".to_owned()))?;
        // What was begun later may stand on what was begun before.
        doomed.reverse();
        let known = |driver: &str| root.storage(driver).exists();
        for (driver, id) in doomed.iter().filter(|(driver, _)| known(driver)) {
            self.store(Some(driver))?.remove(id)?;
        }
        root::remove_tree(&root.tmp().join(intent.id()))?;
        failpoint::hit("settle.removed").map_err(Error::io(|| "tidy up".to_owned()))?;
        intent.end()
    }

    /// Takes out of the records what nobody needs any more, and lists the layers that are to be removed.
    fn condemn(&self, intent: &Intent, kept: Option<&Kept>) -> Result<Vec<(String, LayerId)>> {
        let root = self.root();
        let lines = intent.lines();
        let _lock = root.lock()?;
        let others = intent::announced(root, intent.id())?;
        if !lines.contains(&Line::Done) {
            forget_images(root, &lines, &others)?;
        }
        let wanted: BTreeSet<ChainId> = lines.iter().filter_map(chain_of).collect();
        let dead = match dead_layers(root, &wanted, &others) {
            // While a record or an image cannot be read, nobody knows what is needed: everything stays.
            Err(Error::Damaged { .. }) => Vec::new(),
            dead => dead?,
        };
        for (chain, record) in dead {
            for (driver, id) in record.drivers.iter().chain(&record.init) {
                intent.add(Line::Layer { driver: driver.clone(), id: id.clone() })?;
            }
            let aside = root.tmp().join(intent.id()).join(format!("{}.dead", chain.hex()));
            let place = layers::directory(root, &chain);
            fs::create_dir_all(root.tmp().join(intent.id()))
                .and_then(|()| fs::rename(&place, &aside))
                .and_then(|()| mica_core::durable::sync_dir(&root.layers()))
                .map_err(Error::io(|| format!("remove '{}'", place.display())))?;
            failpoint::hit("settle.forgotten").map_err(Error::io(|| "tidy up".to_owned()))?;
        }
        self.discard_volumes(intent, &kept.map(|kept| kept.volumes.clone()).unwrap_or_default())?;
        let begun = intent.lines().into_iter().filter_map(|line| match line {
            Line::Layer { driver, id } => Some((driver, id)),
            _ => None,
        });
        let mut begun: Vec<_> = begun.collect();
        let recorded = match kept {
            Some(kept) => kept.layers.clone(),
            // What is damaged elsewhere need not be known where no layer was begun.
            None if begun.is_empty() => return Ok(begun),
            None => recorded_layers(root)?,
        };
        begun.retain(|(_, id)| !recorded.contains(id));
        Ok(begun)
    }
}

/// Removes the images that an unfinished intent has made, if they got no name and nobody else wants them.
fn forget_images(root: &Root, lines: &[Line], others: &[Line]) -> Result<()> {
    let made: Vec<&Digest> =
        lines.iter().filter_map(|l| if let Line::Image(id) = l { Some(id) } else { None }).collect();
    if made.is_empty() {
        return Ok(());
    }
    let tags = Tags::read(root)?;
    let used: BTreeSet<Digest> = uses::all(root)?.into_iter().map(|found| found.image).collect();
    for id in made {
        let is_wanted =
            others.iter().any(|l| matches!(l, Line::Pin(other) | Line::Image(other) if other == id));
        if !is_wanted && !used.contains(id) && tags.of(id).is_empty() {
            images::remove(root, id)?;
        }
    }
    Ok(())
}

/// Those of the `wanted` layers that no image and no other intent needs and that nothing needed stands on, each
/// after those that it stands on.
fn dead_layers(root: &Root, wanted: &BTreeSet<ChainId>, others: &[Line]) -> Result<Vec<(ChainId, Record)>> {
    let mut dead: BTreeMap<ChainId, Record> = BTreeMap::new();
    for chain in wanted {
        dead.extend(layers::read(root, chain)?.map(|record| (*chain, record)));
    }
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    let theirs = others.iter().filter_map(chain_of);
    for live in needed_layers(root)?.into_iter().chain(theirs) {
        dead.remove(&live);
    }
    if dead.is_empty() {
        return Ok(Vec::new());
    }
    for (chain, record) in layers::all(root)? {
        let mut below = record.parent.filter(|_| !dead.contains_key(&chain));
        while let Some(saved) = below.and_then(|id| dead.remove(&id)) {
            below = saved.parent;
        }
    }
    let mut ordered: Vec<(ChainId, Record)> = Vec::with_capacity(dead.len());
    while let Some(next) =
        dead.iter().find(|(_, r)| r.parent.is_none_or(|p| !dead.contains_key(&p))).map(|(c, _)| *c)
    {
        ordered.extend(dead.remove(&next).map(|record| (next, record)));
    }
    Ok(ordered)
}

/// Every layer that an image needs.
pub(crate) fn needed_layers(root: &Root) -> Result<BTreeSet<ChainId>> {
    let mut needed = BTreeSet::new();
    for id in images::ids(root)? {
        if let Some(image) = images::read(root, &id)? {
            needed.extend(image.chain());
        }
    }
    Ok(needed)
}

/// Every layer of any driver that a record of an image layer or a container names.
pub(crate) fn recorded_layers(root: &Root) -> Result<BTreeSet<LayerId>> {
    let mut recorded: BTreeSet<LayerId> = uses::all(root)?.into_iter().map(|found| found.layer).collect();
    for record in layers::all(root)?.values() {
        recorded.extend(record.held().map(|(_, id)| id.clone()));
    }
    Ok(recorded)
}

fn chain_of(line: &Line) -> Option<ChainId> {
    if let Line::Chain(chain) = line { Some(*chain) } else { None }
}

fn doing(lines: &[Line]) -> String {
    let what =
        lines.iter().find_map(|line| if let Line::Doing(what) = line { Some(what.clone()) } else { None });
    what.unwrap_or_else(|| "a command that was killed".to_owned())
}
