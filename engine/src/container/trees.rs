//! The file system of a container as others see it: what it changed, all of it, mounted.

use std::io::Write;
use std::os::fd::OwnedFd;

use mica_archive::diff::{self, Change};
use mica_archive::writer::Writer;
use mica_core::{Committed, Layer, MountOptions, Store, Trees};
use mica_mount::{Held, LazyTrees, Tree};

use super::Container;
use super::init_layer::LeftOut;
use crate::supervisor::wire::Request;
use crate::{Engine, Error, Result};

impl Engine {
    /// Mounts the whole tree of a container for reading, or takes a second mount of the one that is in use.
    fn see(&self, container: &Container) -> Result<Held> {
        if self.state(container)?.status.is_live()
            && let Some(tree) = second_mount(container)?
        {
            return Ok(tree.into());
        }
        let record = container.record();
        let store = self.store(Some(&record.driver))?;
        let hold = store.read(&record.layer(), &MountOptions::default())?;
        Ok(Held::open(hold, &self.mounter())?)
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
        let trees = LazyTrees::new(
            || self.see(container).map_err(mounting),
            || self.see_below(&store, container).map_err(mounting),
        );
        let changes = store.changes(&layer, &trees)?;
        let left_out = LeftOut::of(trees.parent()?)?;
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
        let trees = LazyTrees::new(
            || {
                let held = match layer {
                    Some(copy) => open(copy),
                    None => self.see(container),
                };
                held.map_err(mounting)
            },
            || self.see_below(&store, container).map_err(mounting),
        );
        let own = container.record().layer();
        let changes = store.changes(layer.unwrap_or(&own), &trees)?;
        let mut archive = Writer::new(out);
        let left_out = LeftOut::of(trees.parent()?)?;
        diff::write(&changes, &trees, &|path| left_out.has(path), &mut archive)?;
        archive.finish()?;
        trees.close()?;
        Ok(())
    }

    /// Writes the whole file system of a container as a tarball, without what is mounted in it.
    pub fn export(&self, container: &Container, out: impl Write) -> Result<()> {
        let seen = self.see(container)?;
        let mut archive = Writer::new(out);
        diff::write_tree(seen.tree().path(), &|_| false, &mut archive)?;
        archive.finish()?;
        Ok(seen.close()?)
    }
}

/// The tree that the supervisor has mounted; `None` when the container has just ended.
fn second_mount(container: &Container) -> Result<Option<Tree>> {
    match container.ask(&Request::Tree) {
        Ok(fds) => Ok(fds.into_iter().next().map(|fd: OwnedFd| Tree::from(fd))),
        Err(Error::Conflict(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mounting(error: Error) -> mica_core::Error {
    match error {
        Error::Storage(error) => error,
        other => mica_core::Error::driver("look at a container", other),
    }
}
