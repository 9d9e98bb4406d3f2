//! Putting a container in place that another engine made.

use std::io;
use std::os::fd::AsFd;

use mica_core::{Begun, Layer, LayerOptions, MountOptions, Store, Writable, failpoint};
use mica_mount::Held;
use rustix::fs::{Mode, OFlags, openat, syncfs};

use super::create::settle;
use super::{Busy, ConnectWish, Container, Record, Settings, State, init_layer, names};
use crate::{Barrier, Engine, Error, Image, Result, Transaction};

/// A container that comes from elsewhere.
pub(crate) struct Arrival<'a> {
    /// 64 hex digits that no container has.
    pub(crate) id: String,
    pub(crate) name: &'a str,
    /// When it was created, as RFC 3339 says it.
    pub(crate) created: String,
    /// The image that it stands on, by its id here.
    pub(crate) image: String,
    /// What the image was called.
    pub(crate) image_name: String,
    pub(crate) settings: Settings,
    /// The networks that it is connected to, by name.
    pub(crate) networks: Vec<(String, ConnectWish)>,
    /// Where it is in its life; it does not run.
    pub(crate) state: State,
    /// Changes its tree, which is its image's, to what it was.
    pub(crate) fill: &'a dyn Fn(&Held) -> Result<()>,
}

impl Engine {
    /// Makes the container, to be there after a power cut too. After an error nothing of it is left.
    pub(crate) fn receive(&self, arrival: &Arrival<'_>) -> Result<Container> {
        names::check(arrival.name)?;
        let connections = self.resolve(&arrival.settings.networking, &arrival.networks)?;
        let made = self.transaction("adopt a container", Barrier::Disk, |tx| {
            let image = tx.image(&arrival.image)?;
            let record = self.arrived(tx, arrival, &image)?;
            self.put_in_place(tx, record, &connections, Some(arrival.name), &arrival.state)
        });
        made.map(|(container, _): (Container, Busy)| container)
    }

    fn arrived(&self, tx: &Transaction<'_>, arrival: &Arrival<'_>, image: &Image) -> Result<Record> {
        let hit = |point| failpoint::hit(point).map_err(Error::io(|| "adopt a container"));
        let store = self.store(None)?;
        let Settings { env, labels, .. } = arrival.settings.clone();
        // What it took from its image it has already, in an order of its own.
        let settings = Settings { env, labels, ..settle(arrival.settings.clone(), image)? };
        let (below, left_out) = self.init_layer(tx, image, &store, &init_layer::fill)?;
        let id = tx.new_layer(&store)?;
        let Begun::Fresh(layer) = store.create(id, Some(&below), &LayerOptions::default())? else {
            return Err(Error::Conflict(
                "the storage driver has a layer of this new name already".to_owned(),
            ));
        };
        hit("receive.layer")?;
        self.fill_arrived(&store, &layer, arrival)?;
        hit("receive.filled")?;
        Ok(Record {
            id: arrival.id.clone(),
            name: String::new(),
            created: arrival.created.clone(),
            image: *image.id(),
            image_name: arrival.image_name.clone(),
            driver: store.driver().name().to_owned(),
            layer: layer.id().clone(),
            parents: layer.parents().to_vec(),
            left_out,
            settings,
        })
    }

    fn fill_arrived(&self, store: &Store, layer: &Layer<Writable>, arrival: &Arrival<'_>) -> Result<()> {
        let held = Held::open(store.write(layer, &MountOptions::default())?, &self.mounter())?;
        (arrival.fill)(&held)?;
        // The drivers' barrier is for layers that are committed.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(held.tree().root().as_fd(), ".", flags, Mode::empty());
        root.and_then(syncfs)
            .map_err(io::Error::from)
            .map_err(Error::io(|| "sync the layer of a container"))?;
        Ok(held.close()?)
    }
}
