//! Finding what nothing names.

use std::collections::BTreeSet;

use mica_core::LayerId;

use super::Checker;
use crate::chain::ChainId;
use crate::intent::{self, Line};
use crate::{Barrier, Error, Result, layers, root, settle};

impl Checker<'_> {
    /// Every record is of a layer that an image needs, or a command that runs now.
    pub(super) fn find_unneeded_records(&mut self) -> Result<()> {
        let root = self.engine.root();
        let needed = {
            let _lock = root.lock()?;
            // While an image is damaged, which was told, nobody knows what it needs.
            let Some(mut needed) = readable(settle::needed_layers(root))? else { return Ok(()) };
            needed.extend(intent::announced(root, "")?.iter().filter_map(|line| match line {
                Line::Chain(chain) => Some(*chain),
                _ => None,
            }));
            needed
        };
        let unneeded: Vec<ChainId> =
            layers::chains(root)?.into_iter().filter(|chain| !needed.contains(chain)).collect();
        for chain in &unneeded {
            self.found(format!("no image needs layer {chain}"), "removed", |engine| {
                engine.transaction("storage check", Barrier::Disk, |transaction| transaction.need(&unneeded))
            });
        }
        Ok(())
    }

    /// Every layer of a driver is named by a record, a container, or a command that runs now.
    pub(super) fn find_unknown_layers(&mut self) -> Result<()> {
        let root = self.engine.root();
        let known: BTreeSet<LayerId> = {
            let _lock = root.lock()?;
            let Some(mut known) = readable(settle::recorded_layers(root))? else { return Ok(()) };
            known.extend(intent::announced(root, "")?.into_iter().filter_map(|line| match line {
                Line::Layer { id, .. } => Some(id),
                _ => None,
            }));
            known
        };
        let mut unknown = Vec::new();
        for (driver, (store, held)) in &self.drivers {
            for id in held.difference(&known) {
                unknown.push((driver.clone(), store.clone(), id.clone()));
            }
        }
        for (driver, store, id) in unknown {
            self.found(
                format!("nothing names layer {id} of {driver}"),
                "removed",
                |_| Ok(store.remove(&id)?),
            );
        }
        Ok(())
    }

    /// Every directory in `tmp` belongs to an intent, or is a mount of a process that lives: others are swept when the root
    /// is opened.
    pub(super) fn find_scratch(&mut self) -> Result<()> {
        let root = self.engine.root();
        let left: Vec<String> = {
            let _lock = root.lock()?;
            let intents = root::names(&root.intents())?;
            let is_left =
                |name: &String| !intents.contains(name) && !name.starts_with(mica_mount::SCRATCH_PREFIX);
            root::names(&root.tmp())?.into_iter().filter(is_left).collect()
        };
        for name in left {
            let path = root.tmp().join(name);
            self.found(format!("'{}' belongs to no command", path.display()), "removed", |_| {
                root::remove_tree(&path)
            });
        }
        Ok(())
    }
}

fn readable<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
