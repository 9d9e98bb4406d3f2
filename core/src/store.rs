//! What users of a driver hold: a store, and layers whose state the compiler knows.
//!
//! The driver's trait takes ids; here a layer is a value of type [`Layer<Writable>`], [`Layer<Detached>`] or
//! [`Layer<Committed>`], and each operation takes the states that the contract allows it. That a writable layer is
//! no parent, that a committed one is not written, that a detached one is only filled: these do not compile.
//!
//! # Uses
//!
//! Several processes have one driver root open at once, so who uses a layer is written where all see it: in locks
//! (`flock`) on small files in the `uses` directory, which vanish with the process that holds them, however it ends.
//! A tree that is mounted for reading holds its layer's lock shared; one mounted for writing or filling holds it alone, for
//! a live writable tree is never mounted twice. What would pull a layer away under a user answers
//! [`Error::InUse`]. Only the last reader has the driver release what `mounts` made ready.

use std::fs::File;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use crate::uses::{Lock, Uses};
use crate::{
    Access, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest,
    Mounts, Result, Trees, Usage,
};

/// The state of a layer that can be written, and committed.
#[derive(Clone, Copy, Debug)]
pub enum Writable {}

/// The state of a layer that is being filled before its parents are known.
#[derive(Clone, Copy, Debug)]
pub enum Detached {}

/// The state of a layer that is frozen, and can be a parent.
#[derive(Clone, Copy, Debug)]
pub enum Committed {}

mod sealed {
    /// A state that can be mounted whole.
    pub trait Whole {}
    /// A state that can be filled from a tarball.
    pub trait Fillable {}
    impl Whole for super::Writable {}
    impl Whole for super::Committed {}
    impl Fillable for super::Writable {}
    impl Fillable for super::Detached {}
}

/// A layer that a store holds. The value is a name with a state, not the content: dropping it removes nothing.
#[derive(Debug)]
pub struct Layer<State> {
    id: LayerId,
    parents: Vec<LayerId>,
    state: PhantomData<State>,
}

impl<State> Layer<State> {
    /// Names a layer whose state and parents (nearest first) a record of the caller's vouches for. The driver checks
    /// them again where it can.
    pub fn recorded(id: LayerId, parents: Vec<LayerId>) -> Self {
        Self { id, parents, state: PhantomData }
    }

    /// Its name.
    pub fn id(&self) -> &LayerId {
        &self.id
    }

    /// What it stands on, nearest first.
    pub fn parents(&self) -> &[LayerId] {
        &self.parents
    }

    /// The form that a driver is handed.
    pub fn chain(&self) -> Chain<'_> {
        Chain { id: &self.id, parents: &self.parents }
    }

    fn with_itself(&self) -> Vec<LayerId> {
        std::iter::once(&self.id).chain(&self.parents).cloned().collect()
    }
}

impl Clone for Layer<Committed> {
    fn clone(&self) -> Self {
        Self::recorded(self.id.clone(), self.parents.clone())
    }
}

/// A layer that was just made.
#[derive(Debug)]
pub enum Begun {
    /// Empty, to be filled and committed.
    Fresh(Layer<Writable>),
    /// The driver had its content already.
    Ready(Layer<Committed>),
}

/// A driver together with the locks that say who uses which layer.
#[derive(Clone, Debug)]
pub struct Store {
    driver: Arc<dyn GraphDriver>,
    uses: Uses,
}

impl Store {
    /// Joins a driver with the directory of its locks, which is made where it is missing. Every process that opens
    /// this driver root names the same directory.
    pub fn new(driver: Box<dyn GraphDriver>, uses: &Path) -> Result<Self> {
        Ok(Self { driver: driver.into(), uses: Uses::new(uses)? })
    }

    /// The driver, for what needs no lock: its name, capabilities, status, check and list.
    pub fn driver(&self) -> &dyn GraphDriver {
        &*self.driver
    }

    /// Makes a layer on top of `parent`.
    pub fn create(
        &self,
        id: LayerId,
        parent: Option<&Layer<Committed>>,
        options: &LayerOptions,
    ) -> Result<Begun> {
        let layer = Layer::<Writable>::recorded(id, parent.map(Layer::with_itself).unwrap_or_default());
        let options = LayerOptions { detached: false, ..options.clone() };
        Ok(match self.driver.create(layer.chain(), &options)? {
            Created::Fresh => Begun::Fresh(layer),
            Created::Ready => Begun::Ready(Layer::recorded(layer.id, layer.parents)),
        })
    }

    /// Makes a layer whose parents become known when it is committed.
    pub fn create_detached(&self, id: LayerId, options: &LayerOptions) -> Result<Layer<Detached>> {
        let layer = Layer::recorded(id, Vec::new());
        let options = LayerOptions { detached: true, ..options.clone() };
        match self.driver.create(layer.chain(), &options)? {
            Created::Fresh => Ok(layer),
            Created::Ready => Err(Error::layer_exists(&layer.id)),
        }
    }

    /// Freezes a layer. After an error it is still writable, and [`Layer::recorded`] names it again.
    pub fn commit(&self, layer: Layer<Writable>) -> Result<Layer<Committed>> {
        let _alone = self.uses.alone(&layer.id)?;
        self.driver.commit(layer.chain())?;
        Ok(Layer::recorded(layer.id, layer.parents))
    }

    /// Freezes a layer that was filled without its parents, on top of this one.
    pub fn commit_onto(
        &self,
        layer: Layer<Detached>,
        parent: Option<&Layer<Committed>>,
    ) -> Result<Layer<Committed>> {
        let onto = Layer::<Writable>::recorded(layer.id, parent.map(Layer::with_itself).unwrap_or_default());
        self.commit(onto)
    }

    /// Returns when these layers survive a power cut.
    pub fn sync<'a>(&self, layers: impl IntoIterator<Item = &'a Layer<Committed>>) -> Result<()> {
        let ids: Vec<LayerId> = layers.into_iter().map(|layer| layer.id.clone()).collect();
        self.driver.sync(&ids)
    }

    /// Holds a layer for mounting it read-only.
    pub fn read<S: sealed::Whole>(&self, layer: &Layer<S>, options: &MountOptions) -> Result<Hold> {
        self.hold(layer, Access::Read, options)
    }

    /// Holds a layer for mounting it writable.
    pub fn write(&self, layer: &Layer<Writable>, options: &MountOptions) -> Result<Hold> {
        self.hold(layer, Access::Write, options)
    }

    /// Holds a layer for extracting a tarball into it.
    pub fn apply<S: sealed::Fillable>(&self, layer: &Layer<S>, options: &MountOptions) -> Result<Hold> {
        self.hold(layer, Access::Apply, options)
    }

    /// Copies a writable layer, which may be mounted if its writers are paused.
    pub fn duplicate(&self, from: &Layer<Writable>, to: LayerId) -> Result<Layer<Writable>> {
        self.driver.duplicate(from.chain(), &to)?;
        Ok(Layer::recorded(to, from.parents.clone()))
    }

    /// Where the differences between a layer and its parent are.
    pub fn changes<S: sealed::Whole>(&self, layer: &Layer<S>, trees: &dyn Trees) -> Result<Changes> {
        self.driver.changes(layer.chain(), trees)
    }

    /// What a layer alone takes on disk.
    pub fn usage<S>(&self, layer: &Layer<S>) -> Result<Usage> {
        self.driver.usage(layer.chain())
    }

    /// Where a layer is kept, as names and values for people.
    pub fn layer_status<S>(&self, layer: &Layer<S>) -> Result<Vec<(String, String)>> {
        self.driver.layer_status(layer.chain())
    }

    /// Removes a layer in any state. No layer may stand on it. A layer that does not exist is removed already.
    pub fn remove(&self, id: &LayerId) -> Result<()> {
        let _alone = self.uses.alone(id)?;
        self.driver.remove(id)?;
        self.uses.forget(id)
    }

    fn hold<S>(&self, layer: &Layer<S>, access: Access, options: &MountOptions) -> Result<Hold> {
        let reading = access == Access::Read;
        // A reader that comes while the last one releases must not have its mounts made ready before and released after.
        let _gate = if reading { Some(self.uses.gate(&layer.id)?) } else { None };
        let lock = if reading { self.uses.shared(&layer.id)? } else { self.uses.alone(&layer.id)? };
        let request = MountRequest { access, options: options.clone() };
        let mounts = self.driver.mounts(layer.chain(), &request)?;
        let layer = Layer::recorded(layer.id.clone(), layer.parents.clone());
        Ok(Hold { store: self.clone(), layer, access, mounts, lock: Some(lock) })
    }
}

/// A layer in use: how to mount it, and the lock that says so.
///
/// The holder mounts [`mounts`](Self::mounts), and unmounts before it lets go. Dropping the value releases too, but swallows the error.
#[derive(Debug)]
pub struct Hold {
    store: Store,
    layer: Layer<()>,
    access: Access,
    mounts: Mounts,
    lock: Option<Lock>,
}

impl Hold {
    /// How to mount the layer.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// The lock, for a process that serves the mount and so must hold it too: after [`hand_over`](Self::hand_over), the
    /// layer is in use while any process has a duplicate of this descriptor open.
    pub fn lock(&self) -> Option<&File> {
        self.lock.as_ref().and_then(Lock::file)
    }

    /// Lets go: the last user has the driver release the layer. Everything of it is unmounted by now.
    pub fn release(mut self) -> Result<()> {
        self.let_go()
    }

    /// Lets go of this process's part, while another process that inherited the lock goes on using the layer and
    /// releases it.
    pub fn hand_over(mut self) {
        if let Some(lock) = self.lock.take() {
            lock.hand_over();
        }
    }

    fn let_go(&mut self) -> Result<()> {
        let Some(lock) = self.lock.take() else {
            return Ok(());
        };
        let Self { store, layer, access, .. } = self;
        if *access != Access::Read {
            return store.driver.release(layer.chain(), *access);
        }
        let _gate = store.uses.gate(&layer.id)?;
        drop(lock);
        match store.uses.alone(&layer.id) {
            Ok(_alone) => store.driver.release(layer.chain(), *access),
            Err(Error::InUse { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}
