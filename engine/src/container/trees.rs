//! The file system of a container as others see it: what it changed, all of it, mounted.

use std::cell::Cell;
use std::io::Write;

use mica_archive::diff::{self, Change};
use mica_archive::writer::Writer;
use mica_core::{Committed, Layer, MountOptions, Store};
use mica_mount::{Held, LazyTrees, Tree};

use super::init_layer::LeftOut;
use super::reach::{Purpose, Reached};
use super::{Busy, Container};
use crate::supervisor::wire::Request;
use crate::{Engine, Error, Result};

impl Engine {
    /// Mounts the whole tree of a container for reading, or takes a second mount of the one that is in use. The lock, if there
    /// is one, is to outlive it.
    fn see(&self, container: &Container, doing: &'static str) -> Result<(Held, Option<Busy>)> {
        let busy = match self.reach(container, Purpose::Look(doing), Some(&Request::Tree))? {
            Reached::Idle(busy) => busy,
            Reached::Live(_, handed) => {
                let tree = handed.into_iter().next().ok_or_else(|| container.not_running())?;
                return Ok((Tree::from(tree).into(), None));
            }
        };
        let record = container.record();
        let store = self.store(Some(&record.driver))?;
        let hold = store.read(&record.layer(), &MountOptions::default())?;
        Ok((Held::open(hold, &self.mounter())?, Some(busy)))
    }

    /// As [`see`](Self::see), with the lock put where it outlives the tree.
    fn see_locked(
        &self,
        container: &Container,
        doing: &'static str,
        lock: &Cell<Option<Busy>>,
    ) -> Result<Held> {
        let (held, busy) = self.see(container, doing)?;
        lock.set(busy);
        Ok(held)
    }

    /// The layer that a container's own stands on.
    fn see_below(&self, store: &Store, container: &Container) -> Result<Option<Held>> {
        let Some((id, parents)) = container.record().parents.split_first() else { return Ok(None) };
        let below = Layer::<Committed>::recorded(id.clone(), parents.to_vec());
        let hold = store.read(&below, &MountOptions::default())?;
        Ok(Some(Held::open(hold, &self.mounter())?))
    }

    /// What a container changed, sorted by path. What is mounted in every container is left out.
    pub fn changes(&self, container: &Container) -> Result<Vec<Change>> {
        let store = self.store(Some(&container.record().driver))?;
        let layer = container.record().layer();
        let lock = Cell::new(None);
        let trees = LazyTrees::new(
            || self.see_locked(container, "being compared with its image", &lock).map_err(mounting),
            || self.see_below(&store, container).map_err(mounting),
        );
        let changes = store.changes(&layer, &trees)?;
        let left_out = LeftOut::of(container.record().left_out.as_ref(), &trees)?;
        let list = diff::changes(&changes, &trees, &|path| left_out.has(path))?;
        trees.close()?;
        Ok(list)
    }

    /// Writes what `layer`, a copy of the container's, changed as a layer tarball.
    pub(super) fn write_changes(
        &self,
        container: &Container,
        layer: Option<&Layer<mica_core::Writable>>,
        out: impl Write,
    ) -> Result<()> {
        let store = self.store(Some(&container.record().driver))?;
        let open = |layer| -> Result<Held> {
            Ok(Held::open(store.read(layer, &MountOptions::default())?, &self.mounter())?)
        };
        let lock = Cell::new(None);
        let trees = LazyTrees::new(
            || {
                let held = match layer {
                    Some(copy) => open(copy),
                    None => self.see_locked(container, "being committed", &lock),
                };
                held.map_err(mounting)
            },
            || self.see_below(&store, container).map_err(mounting),
        );
        let own = container.record().layer();
        let changes = store.changes(layer.unwrap_or(&own), &trees)?;
        let mut archive = Writer::new(out);
        let left_out = LeftOut::of(container.record().left_out.as_ref(), &trees)?;
        diff::write(&changes, &trees, &|path| left_out.has(path), &mut archive)?;
        archive.finish()?;
        trees.close()?;
        Ok(())
    }

    /// Writes the whole file system of a container as a tarball, without what is mounted in it.
    pub fn export(&self, container: &Container, out: impl Write) -> Result<()> {
        let (seen, _lock) = self.see(container, "being exported")?;
        let mut archive = Writer::new(out);
        diff::write_tree(seen.tree().path(), &|_| false, &mut archive)?;
        archive.finish()?;
        Ok(seen.close()?)
    }
}

fn mounting(error: Error) -> mica_core::Error {
    match error {
        Error::Storage(error) => error,
        other => mica_core::Error::driver("look at a container", other),
    }
}
