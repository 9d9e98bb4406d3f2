//! The init layer: what every container of an image finds, and no commit takes along.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use mica_core::{Begun, Committed, Layer, LayerOptions, MountOptions, Store, failpoint};
use mica_mount::Held;

use crate::layers;
use crate::{Engine, Error, Image, Result, Transaction};

impl Engine {
    /// The init layer on top of an image in this store, which is made at first use: `fill` gets the root of its
    /// writable tree, and returns where the image's links led. It goes together with the image's last layer.
    pub fn init_layer(
        &self,
        transaction: &Transaction<'_>,
        image: &Image,
        store: &Store,
        fill: &dyn Fn(BorrowedFd<'_>) -> Result<BTreeSet<String>>,
    ) -> Result<(Layer<Committed>, Option<BTreeSet<String>>)> {
        let top = self.layer_chain(transaction, image, store)?;
        let chain =
            *image.top().ok_or_else(|| Error::Invalid(format!("image {} has no layers", image.id())))?;
        let driver = store.driver().name();
        let found = || -> Result<Option<_>> {
            let mut record = layers::record(self.root(), &chain)?;
            let parents = || std::iter::once(top.id()).chain(top.parents()).cloned().collect();
            let layer = record.init.remove(driver).map(|id| Layer::recorded(id, parents()));
            Ok(layer.map(|layer| (layer, record.init_elsewhere)))
        };
        if let Some(layer) = found()? {
            return Ok(layer);
        }
        transaction.need(image.chain())?;
        let _lock = self.root().long_lock(&format!("{}.{driver}.init", chain.hex()))?;
        if let Some(layer) = found()? {
            return Ok(layer);
        }
        let id = transaction.new_layer(store)?;
        let layer = match store.create(id, Some(&top), &LayerOptions::default())? {
            Begun::Fresh(layer) => layer,
            Begun::Ready(layer) => return Err(mica_core::Error::layer_exists(layer.id()).into()),
        };
        let held = Held::open(store.write(&layer, &MountOptions::default())?, &self.mounter())?;
        let elsewhere = fill(held.tree().root())?;
        held.close()?;
        let layer = store.commit(layer)?;
        store.sync([&layer])?;
        failpoint::hit("init.committed").map_err(Error::io(|| "make an init layer".to_owned()))?;
        transaction.record_init(&chain, store, layer.id(), elsewhere.clone())?;
        Ok((layer, Some(elsewhere)))
    }
}
