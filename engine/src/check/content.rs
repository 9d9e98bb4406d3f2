//! Checking the records of layers, and the content behind them.

use std::io;

use super::Checker;
use crate::chain::ChainId;
use crate::layers::{self, Record};
use crate::{Engine, Error, Result, root, uses};

impl Checker<'_> {
    /// Every record can be read, is what its name says, stands on another that is there, and names layers that the
    /// drivers have.
    pub(super) fn check_records(&mut self) -> Result<()> {
        let engine = self.engine;
        for name in root::names(&engine.root().layers())? {
            self.report.layers += 1;
            let Some(chain) = ChainId::from_hex(&name) else {
                let path = engine.root().layers().join(&name);
                self.found(format!("'{}' is no record of a layer", path.display()), "removed", |_| {
                    root::remove_tree(&path)
                });
                continue;
            };
            match defect(engine, &chain) {
                Some(why) => {
                    self.found(format!("the record of layer {chain} {why}"), "removed", |engine| {
                        forget(engine, &chain)
                    });
                }
                None => self.check_held(&chain)?,
            }
        }
        Ok(())
    }

    fn check_held(&mut self, chain: &ChainId) -> Result<()> {
        let Some(record) = layers::read(self.engine.root(), chain)? else { return Ok(()) };
        for (driver, id) in &record.drivers {
            if self.lacks(driver, id) {
                self.found(format!("{driver} has lost layer {chain} ({id})"), "forgotten there", |engine| {
                    drop_from(engine, chain, driver)
                });
            }
        }
        for (driver, id) in &record.init {
            if self.lacks(driver, id) {
                self.found(
                    format!("{driver} has lost the init layer on {chain} ({id})"),
                    "forgotten",
                    |engine| change(engine, chain, |record| drop(record.init.remove(driver))),
                );
            }
        }
        Ok(())
    }

    /// A driver that does not open is reported as a whole.
    fn lacks(&self, driver: &str, id: &mica_core::LayerId) -> bool {
        self.drivers.get(driver).is_some_and(|(_, held)| !held.contains(id))
    }

    /// Every layer gives back the tarball that its digest names, from every driver that has it.
    pub(super) fn check_content(&mut self) -> Result<()> {
        for chain in layers::chains(self.engine.root())? {
            // One that cannot be read was told already.
            let Ok(Some(record)) = layers::read(self.engine.root(), &chain) else { continue };
            for driver in record.drivers.keys() {
                let Some((store, _)) = self.drivers.get(driver) else { continue };
                let store = store.clone();
                if let Err(error) = self.engine.reproduce_from(&store, &chain, &record.diff_id, io::sink()) {
                    self.found(
                        format!("layer {chain} is damaged in {driver} ({error})"),
                        "forgotten there",
                        |engine| drop_from(engine, &chain, driver),
                    );
                }
            }
        }
        Ok(())
    }
}

/// What is wrong with a record, if anything is.
fn defect(engine: &Engine, chain: &ChainId) -> Option<String> {
    let record = match layers::read(engine.root(), chain) {
        Ok(Some(record)) => record,
        Ok(None) => return Some("is missing".to_owned()),
        Err(error) => return Some(format!("cannot be read ({error})")),
    };
    let parent = record.parent.as_ref();
    if ChainId::new(parent, &record.diff_id) != *chain {
        return Some("does not match its name".to_owned());
    }
    if parent.is_some_and(|parent| !layers::directory(engine.root(), parent).exists()) {
        return Some("stands on a layer that has none".to_owned());
    }
    (!layers::split(engine.root(), chain).exists())
        .then(|| "has lost the split, without which it cannot be saved".to_owned())
}

/// Changes a record that can be read.
fn change(engine: &Engine, chain: &ChainId, edit: impl FnOnce(&mut Record)) -> Result<()> {
    let _lock = engine.root().lock()?;
    let mut record = layers::record(engine.root(), chain)?;
    edit(&mut record);
    layers::write(&layers::directory(engine.root(), chain), &record)
}

/// Removes a record unless a container stands on it. Its layers are orphans then, and those on top of it follow.
fn forget(engine: &Engine, chain: &ChainId) -> Result<()> {
    refuse_if_used(engine, chain, None)?;
    let _lock = engine.root().lock()?;
    root::remove_tree(&layers::directory(engine.root(), chain))
}

/// Lets a record and those that stand on it forget what a driver had; what is left of it is an orphan. A record that no driver
/// has any more goes.
fn drop_from(engine: &Engine, chain: &ChainId, driver: &str) -> Result<()> {
    refuse_if_used(engine, chain, Some(driver))?;
    for other in layers::chains(engine.root())? {
        // One that cannot be read, or stands on such a one, is found and told apart from this.
        let Ok(Some(mut record)) = layers::read(engine.root(), &other) else { continue };
        let Ok(ancestry) = layers::ancestry(engine.root(), &other) else { continue };
        if !ancestry.contains(chain) {
            continue;
        }
        record.drivers.remove(driver);
        record.init.remove(driver);
        let _lock = engine.root().lock()?;
        let directory = layers::directory(engine.root(), &other);
        if record.drivers.is_empty() {
            root::remove_tree(&directory)?;
        } else {
            layers::write(&directory, &record)?;
        }
    }
    Ok(())
}

fn refuse_if_used(engine: &Engine, chain: &ChainId, driver: Option<&str>) -> Result<()> {
    for user in uses::all(engine.root())? {
        let is_there = driver.is_none_or(|driver| driver == user.driver);
        let image = crate::images::read(engine.root(), &user.image)?;
        if is_there && image.is_some_and(|image| image.chain().contains(chain)) {
            return Err(Error::Conflict(format!("container {} stands on it", user.name)));
        }
    }
    Ok(())
}
