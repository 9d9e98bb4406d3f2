//! Making the layers of an image in a driver: at once where the driver can fill layers without their parents, else
//! one on top of the other.

use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;
use mica_archive::ingest::Expected;
use mica_core::{Begun, Committed, Detached, Layer, LayerOptions, MountOptions, Store, failpoint};

use super::fill::Filled;
use crate::chain::ChainId;
use crate::layers;
use crate::{Engine, Error, Result, Transaction};

/// Where the tarballs of an image's layers come from. Layers are counted from the base, which is 0.
pub(crate) trait Tarballs: Sync {
    /// Opens the tarball of a layer, in any compression, and has it consumed.
    fn read(&self, index: usize, consume: &mut Consume<'_>) -> Result<()>;
    /// The digest that the tarball has as it is read, where it is known.
    fn blob(&self, index: usize) -> Option<Digest>;
    /// About how long the tarball is: long ones are begun first.
    fn length(&self, index: usize) -> u64;
    /// What happens to extended attributes that the host cannot have.
    fn xattrs(&self, index: usize) -> UnsupportedXattrs;
}

/// What is done with a tarball.
pub(crate) type Consume<'a> = dyn FnMut(&mut (dyn Read + Send)) -> Result<()> + 'a;

/// A layer that is filled, and not committed.
type Begin = (Layer<Detached>, Filled);

/// The layers that are to be made.
struct Job<'a> {
    engine: &'a Engine,
    transaction: &'a Transaction<'a>,
    store: &'a Store,
    chain: &'a [ChainId],
    diff_ids: &'a [Digest],
    tarballs: &'a dyn Tarballs,
    /// The index of the first one that the driver lacks.
    first: usize,
    /// Somebody failed, nobody needs to go on.
    is_over: AtomicBool,
}

impl Engine {
    /// Makes those layers of an image that the store's driver lacks, verifies each against its DiffID, and records them
    /// behind one durability barrier. Returns the last one, and what had to be left out.
    ///
    /// Two who want the same layers at once wait for each other, and the second finds them made.
    pub(crate) fn provide(
        &self,
        transaction: &Transaction<'_>,
        store: &Store,
        diff_ids: &[Digest],
        tarballs: &dyn Tarballs,
    ) -> Result<(Option<Layer<Committed>>, Vec<String>)> {
        let driver = store.driver().name();
        let chain = ChainId::of_all(diff_ids);
        transaction.need(&chain)?;
        let mut warnings = Vec::new();
        let missing = layers::held_by(self.root(), &chain, driver)?;
        // In the order of the chain, so that two who share a part of it do not wait in a circle.
        let _locks: Vec<_> = chain[missing..]
            .iter()
            .map(|id| self.root().long_lock(&format!("{}.{driver}", id.hex())))
            .collect::<Result<_>>()?;
        let first = layers::held_by(self.root(), &chain, driver)?;
        if first < chain.len() {
            let is_over = AtomicBool::new(false);
            let job =
                Job { engine: self, transaction, store, chain: &chain, diff_ids, tarballs, first, is_over };
            let made =
                if store.driver().capabilities().detached_apply { job.at_once() } else { job.in_order() };
            warnings = job.record(made?)?;
        }
        Ok((layers::committed(self.root(), &chain, driver)?, warnings))
    }
}

impl Job<'_> {
    /// Fills as many layers at a time as there are processors, then puts each on top of the one before it.
    fn at_once(&self) -> Result<Vec<(Layer<Committed>, Filled)>> {
        let mut waiting: Vec<usize> = (self.first..self.chain.len()).collect();
        waiting.sort_by_key(|&index| self.tarballs.length(index));
        let workers = thread::available_parallelism().map_or(1, usize::from).min(waiting.len());
        let waiting = Mutex::new(waiting);
        let filled: Mutex<Vec<(usize, Begin)>> = Mutex::default();
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = || -> Result<()> {
            while let Some(index) = next() {
                let begun = self.begin(index).inspect_err(|_| self.is_over.store(true, Ordering::Relaxed))?;
                filled.lock().unwrap_or_else(PoisonError::into_inner).push((index, begun));
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let ended = workers.into_iter().map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(Error::Invalid("a thread that applies a layer panicked".into())))
            });
            // All are waited for, and the one that failed by itself has more to tell than those that it stopped.
            ended.collect::<Vec<_>>().into_iter().reduce(worse).unwrap_or(Ok(()))
        })?;
        let mut filled = filled.into_inner().unwrap_or_else(PoisonError::into_inner);
        filled.sort_by_key(|(index, _)| *index);
        self.stack(filled.into_iter().map(|(_, begun)| begun))
    }

    fn begin(&self, index: usize) -> Result<Begin> {
        let id = self.transaction.new_layer(self.store)?;
        let layer = self.store.create_detached(id, &LayerOptions::default())?;
        hit("layer.created")?;
        let filled =
            self.fill(index, &layer, |layer| Ok(self.store.apply(layer, &MountOptions::default())?))?;
        Ok((layer, filled))
    }

    fn stack(&self, filled: impl Iterator<Item = Begin>) -> Result<Vec<(Layer<Committed>, Filled)>> {
        let mut made = Vec::new();
        let mut below = self.base()?;
        for (layer, filled) in filled {
            // What hides all that is below stands on nothing.
            let onto = below.as_ref().filter(|_| !filled.applied.opaque_root);
            self.engine.fit(self.store, &layer, onto, &filled)?;
            let layer = self.store.commit_onto(layer, onto)?;
            hit("layer.committed")?;
            below = Some(layer.clone());
            made.push((layer, filled));
        }
        Ok(made)
    }

    /// Fills and commits one layer after the other.
    fn in_order(&self) -> Result<Vec<(Layer<Committed>, Filled)>> {
        let mut made = Vec::new();
        let mut below = self.base()?;
        for index in self.first..self.chain.len() {
            let id = self.transaction.new_layer(self.store)?;
            let layer = match self.store.create(id, below.as_ref(), &LayerOptions::default())? {
                Begun::Fresh(layer) => layer,
                Begun::Ready(layer) => return Err(mica_core::Error::layer_exists(layer.id()).into()),
            };
            hit("layer.created")?;
            let filled =
                self.fill(index, &layer, |layer| Ok(self.store.apply(layer, &MountOptions::default())?))?;
            let layer = self.store.commit(layer)?;
            hit("layer.committed")?;
            below = Some(layer.clone());
            made.push((layer, filled));
        }
        Ok(made)
    }

    fn base(&self) -> Result<Option<Layer<Committed>>> {
        layers::committed(self.engine.root(), &self.chain[..self.first], self.store.driver().name())
    }

    fn fill<S>(
        &self,
        index: usize,
        layer: &Layer<S>,
        hold: impl Fn(&Layer<S>) -> Result<mica_core::Hold>,
    ) -> Result<Filled> {
        let expected =
            Expected { blob: self.tarballs.blob(index), diff_id: Some(self.diff_ids[index]), max_size: None };
        let split = self.transaction.staging().join(format!("{}.split", layer.id()));
        let mut filled = None;
        self.tarballs.read(index, &mut |source| {
            let mut source = Stoppable { source, is_over: &self.is_over };
            let xattrs = self.tarballs.xattrs(index);
            filled = Some(self.engine.fill(hold(layer)?, &mut source, &expected, xattrs, split.clone())?);
            Ok(())
        })?;
        hit("layer.filled")?;
        filled.ok_or_else(|| {
            Error::Invalid(format!("the tarball of layer {} was not read", self.diff_ids[index]))
        })
    }

    /// One barrier for all, then the records, from the base on.
    fn record(&self, made: Vec<(Layer<Committed>, Filled)>) -> Result<Vec<String>> {
        self.store.sync(made.iter().map(|(layer, _)| layer))?;
        hit("layers.synced")?;
        let mut warnings = Vec::new();
        let mut parent = self.first.checked_sub(1).map(|index| self.chain[index]);
        for (layer, mut filled) in made {
            warnings.append(&mut filled.applied.warnings);
            let recorded =
                self.transaction.record_layer(parent.as_ref(), self.store, &filled.committed(layer))?;
            parent = Some(recorded);
        }
        Ok(warnings)
    }
}

/// What ends a tarball that nobody needs any more.
const STOPPED: &str = "stopped, since another layer of the image failed";

/// A source that ends with an error once another thread has failed.
struct Stoppable<'a> {
    source: &'a mut (dyn Read + Send),
    is_over: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(io::Error::other(STOPPED));
        }
        self.source.read(buffer)
    }
}

fn worse(one: Result<()>, other: Result<()>) -> Result<()> {
    match (&one, &other) {
        (Ok(()), _) => other,
        (Err(error), Err(_)) if error.to_string().ends_with(STOPPED) => other,
        _ => one,
    }
}

fn hit(point: &str) -> Result<()> {
    failpoint::hit(point).map_err(Error::io(|| "make a layer".to_owned()))
}
