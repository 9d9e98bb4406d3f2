//! Giving a layer's tarball back, byte for byte, from any driver that has the layer; and so making an image's layers
//! in another driver.

use std::fs::File;
use std::io::{BufWriter, PipeWriter, Write};

use mica_archive::apply::UnsupportedXattrs;
use mica_archive::{Digest, split};
use mica_core::{Committed, Layer, MountOptions, Store};
use mica_mount::Held;

use super::provide::{Consume, Tarballs};
use crate::chain::ChainId;
use crate::{Engine, Error, Image, Result, Transaction};
use crate::{layers, pipe};

impl Engine {
    /// The last layer of an image in this store, made there first where it is missing.
    pub fn layer_chain(
        &self,
        transaction: &Transaction<'_>,
        image: &Image,
        store: &Store,
    ) -> Result<Layer<Committed>> {
        let driver = store.driver().name();
        if let Some(layer) = layers::committed(self.root(), image.chain(), driver)? {
            return Ok(layer);
        }
        let source = Reproduced { engine: self, chain: image.chain() };
        let (layer, _) = self.provide(transaction, store, image.diff_ids(), &source)?;
        layer.ok_or_else(|| {
            Error::Invalid(format!("image {} has no layers, so there is nothing to run", image.id()))
        })
    }

    /// Writes the uncompressed tarball of a layer to `out` and returns its length. Only when this succeeds is what
    /// was written the layer, and nothing else.
    pub fn reproduce(&self, chain: &ChainId, out: impl Write) -> Result<u64> {
        let record = layers::record(self.root(), chain)?;
        let opened = record.drivers.keys().map(|driver| self.store(Some(driver)));
        let store = opened
            .reduce(Result::or)
            .unwrap_or_else(|| Err(Error::damaged(format!("layer '{chain}'"), "no driver has it")))?;
        self.reproduce_from(&store, chain, &record.diff_id, out)
    }

    /// As [`reproduce`](Self::reproduce), from this driver.
    pub(crate) fn reproduce_from(
        &self,
        store: &Store,
        chain: &ChainId,
        diff_id: &Digest,
        out: impl Write,
    ) -> Result<u64> {
        let driver = store.driver().name();
        let ancestry = layers::ancestry(self.root(), chain)?;
        let layer = layers::committed(self.root(), &ancestry, driver)?;
        let missing = || Error::damaged(format!("layer '{chain}'"), format!("{driver} has not all of it"));
        let layer = layer.ok_or_else(missing)?;
        let path = layers::split(self.root(), chain);
        let split = File::open(&path).map_err(Error::io(|| format!("open '{}'", path.display())))?;
        let held = Held::open(store.read(&layer, &MountOptions::default())?, &self.mounter())?;
        let length = split::assemble(&split, held.tree().root(), diff_id, out)
            .map_err(Error::doing(|| format!("reproduce layer '{chain}' from {driver}")))?;
        held.close()?;
        Ok(length)
    }
}

/// The tarballs of layers that another driver has.
struct Reproduced<'a> {
    engine: &'a Engine,
    chain: &'a [ChainId],
}

impl Tarballs for Reproduced<'_> {
    fn read(&self, index: usize, consume: &mut Consume<'_>) -> Result<()> {
        pipe::through(|writer| self.write(index, writer), |reader| consume(reader))
    }

    fn blob(&self, _: usize) -> Option<Digest> {
        None
    }

    fn length(&self, index: usize) -> u64 {
        self.record(index).map_or(0, |record| record.tar_size)
    }

    fn xattrs(&self, index: usize) -> UnsupportedXattrs {
        match self.record(index) {
            Some(record) if record.lenient => UnsupportedXattrs::Warn,
            _ => UnsupportedXattrs::Strict,
        }
    }
}

impl Reproduced<'_> {
    fn write(&self, index: usize, pipe: PipeWriter) -> Result<()> {
        let mut pipe = BufWriter::with_capacity(64 << 10, pipe);
        self.engine.reproduce(&self.chain[index], &mut pipe)?;
        pipe.flush().map_err(Error::io(|| "hand a layer on".to_owned()))
    }

    fn record(&self, index: usize) -> Option<layers::Record> {
        layers::read(self.engine.root(), &self.chain[index]).ok().flatten()
    }
}
