//! Turning what a container changed into an image.

use mica_archive::apply::UnsupportedXattrs;
use mica_archive::ingest::Expected;
use mica_core::{Begun, Layer, LayerOptions, MountOptions, Store, Writable, failpoint};
use oci_spec::image::Config;

use super::reach::{Purpose, Reached};
use super::{Busy, Container};
use crate::supervisor::wire::{Channel, Request};
use crate::{
    Barrier, Engine, Error, Image, NewImage, NewLayer, Reference, Result, Transaction, change, pipe,
};

/// How a container becomes an image.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// The name of the image.
    pub name: Option<Reference>,
    /// What its history says.
    pub message: String,
    /// Who made it.
    pub author: Option<String>,
    /// Changes of its config, a Dockerfile instruction each.
    pub changes: Vec<String>,
    /// The container goes on running meanwhile: what it writes then is in the image or not.
    pub no_pause: bool,
}

/// What of a container is committed.
enum Source {
    /// A copy that nobody writes.
    Copy(Layer<Writable>),
    /// The container's own layer, which nobody writes while this lives.
    Still { _guard: Still },
}

/// What keeps a container's layer as it is.
enum Still {
    Held { _busy: Busy },
    Paused { _supervisor: Channel },
}

impl Engine {
    /// Makes an image of a container: its image, with what it changed on top.
    pub fn commit(&self, container: &Container, options: &CommitOptions) -> Result<Image> {
        self.transaction("commit a container", Barrier::Disk, |tx| self.commit_in(tx, container, options))
    }

    fn commit_in(
        &self,
        tx: &Transaction<'_>,
        container: &Container,
        options: &CommitOptions,
    ) -> Result<Image> {
        let record = container.record();
        let parent = tx.image(&record.image.to_string())?;
        let store = self.store(Some(&record.driver))?;
        let mut config = config(container, &parent);
        options.changes.iter().try_for_each(|line| change::apply(&mut config, line))?;
        let source = self.still(tx, container, &store, options)?;
        failpoint::hit("commit.copied").map_err(Error::io(|| "commit a container"))?;
        let layer = self.commit_layer(tx, container, &store, &parent, &source)?;
        drop(source);
        tx.commit_image(NewImage {
            parent: &parent,
            store: &store,
            layer: Some(layer),
            config,
            created_by: record.settings.args().join(" "),
            comment: options.message.clone(),
            author: options.author.clone(),
            tag: options.name.clone(),
        })
    }

    /// Gets hold of a layer that does not change: the container's own when it does not run, else a copy, for which it is paused
    /// a moment. Where the driver cannot copy it stays paused.
    fn still(
        &self,
        tx: &Transaction<'_>,
        container: &Container,
        store: &Store,
        options: &CommitOptions,
    ) -> Result<Source> {
        let freeze = Some(&Request::Freeze).filter(|_| !options.no_pause);
        let supervisor = match self.reach(container, Purpose::Look("being committed"), freeze)? {
            Reached::Idle(busy) => return Ok(Source::Still { _guard: Still::Held { _busy: busy } }),
            Reached::Live(supervisor, _) => supervisor,
        };
        if !store.driver().capabilities().duplicate {
            return Ok(Source::Still { _guard: Still::Paused { _supervisor: supervisor } });
        }
        let copy = store.duplicate(&container.record().layer(), tx.new_layer(store)?)?;
        // The supervisor lets the container go on when this connection is closed, also if this process is killed before.
        drop(supervisor);
        Ok(Source::Copy(copy))
    }

    /// Makes a layer on the image's last one with what the container changed.
    fn commit_layer(
        &self,
        tx: &Transaction<'_>,
        container: &Container,
        store: &Store,
        parent: &Image,
        source: &Source,
    ) -> Result<NewLayer> {
        let below = if parent.top().is_some() { Some(self.layer_chain(tx, parent, store)?) } else { None };
        let id = tx.new_layer(store)?;
        let Begun::Fresh(layer) = store.create(id, below.as_ref(), &LayerOptions::default())? else {
            return Err(Error::Conflict(
                "the storage driver has a layer of this new name already".to_owned(),
            ));
        };
        let hold = store.apply(&layer, &MountOptions::default())?;
        let split = tx.staging().join("split");
        let copy = if let Source::Copy(copy) = source { Some(copy) } else { None };
        let filled = pipe::through(
            |writer| self.write_changes(container, copy, writer),
            |reader| self.fill(hold, reader, &Expected::default(), UnsupportedXattrs::Strict, split),
        )?;
        failpoint::hit("commit.filled").map_err(Error::io(|| "commit a container"))?;
        let layer = store.commit(layer)?;
        store.sync([&layer])?;
        Ok(filled.committed(layer))
    }
}

/// How containers of the new image run: as this one.
fn config(container: &Container, parent: &Image) -> Config {
    let settings = &container.record().settings;
    let mut config = parent.config().config().clone().unwrap_or_default();
    config
        .set_entrypoint(settings.entrypoint.clone())
        .set_cmd(settings.cmd.clone())
        .set_env(Some(settings.env.clone()).filter(|env| !env.is_empty()))
        .set_user(settings.user.clone())
        .set_working_dir(settings.cwd.clone())
        .set_labels(
            Some(settings.labels.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
                .filter(|labels| !labels.is_empty()),
        );
    config
}
