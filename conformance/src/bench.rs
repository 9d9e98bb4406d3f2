//! What a case works with: the driver behind a store, and ways to mount, edit and look.

use std::path::Path;

use mica_core::{
    Begun, Capabilities, Chain, Committed, Detached, GraphDriver, Hold, Layer, LayerId, LayerOptions,
    MountOptions, Store, Writable,
};

use crate::leftovers::Leftovers;
use crate::mounted::Mounted;
use crate::outcome::{Doing, Stop, Verdict};
use crate::room::Room;
use crate::tree::Snapshot;
use crate::twin::Twin;

/// A driver that was just opened in an empty root, with all that it takes to try it.
#[derive(Debug)]
pub struct Bench<'r> {
    room: &'r Room<'r>,
    store: Store,
}

impl<'r> Bench<'r> {
    pub(crate) fn open(room: &'r Room<'r>) -> Verdict<Self> {
        let store = room.open_store().doing(|| "open the driver")?;
        Ok(Self { room, store })
    }

    pub(crate) fn room(&self) -> &'r Room<'r> {
        self.room
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn driver(&self) -> &dyn GraphDriver {
        self.store.driver()
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.driver().capabilities()
    }

    /// The program ends and starts again: the driver is dropped, and opened in the same root.
    pub(crate) fn restart(self) -> Verdict<Self> {
        let Self { room, store } = self;
        drop(store);
        Self::open(room).map_err(|stop| stop.within("after a restart"))
    }

    /// A new writable layer.
    pub(crate) fn create(&self, name: &str, parent: Option<&Layer<Committed>>) -> Verdict<Layer<Writable>> {
        self.create_with(name, parent, &LayerOptions::default())
    }

    pub(crate) fn create_with(
        &self,
        name: &str,
        parent: Option<&Layer<Committed>>,
        options: &LayerOptions,
    ) -> Verdict<Layer<Writable>> {
        match self.store.create(id(name), parent, options).doing(|| format!("create '{name}'"))? {
            Begun::Fresh(layer) => Ok(layer),
            Begun::Ready(_) => Err(Stop::failed(format!("create '{name}' claims content that nobody made"))),
        }
    }

    pub(crate) fn commit(&self, layer: Layer<Writable>) -> Verdict<Layer<Committed>> {
        let name = layer.id().clone();
        self.store.commit(layer).doing(|| format!("commit '{name}'"))
    }

    /// A committed layer that was changed so.
    pub(crate) fn layer(
        &self,
        name: &str,
        parent: Option<&Layer<Committed>>,
        change: impl FnOnce(&Path) -> Verdict,
    ) -> Verdict<Layer<Committed>> {
        let layer = self.create(name, parent)?;
        self.edit(&layer, change)?;
        self.commit(layer)
    }

    /// A chain of layers beside a plain directory.
    pub(crate) fn twin(&self, name: &str) -> Verdict<Twin<'_, 'r>> {
        Twin::new(self, name)
    }

    /// A layer that is mounted for what `Holds` says.
    pub(crate) fn mount<H: Holds>(&self, layer: &H, how: How) -> Verdict<Mounted> {
        let hold = layer.hold(&self.store, how, &MountOptions::default());
        self.mounted(hold.doing(|| format!("hold '{}' for {how:?}", layer.chain().id))?)
    }

    pub(crate) fn mounted(&self, hold: Hold) -> Verdict<Mounted> {
        Mounted::new(hold, &self.room.scratch())
    }

    /// Does something in a writable tree of a layer.
    pub(crate) fn edit<T>(
        &self,
        layer: &Layer<Writable>,
        change: impl FnOnce(&Path) -> Verdict<T>,
    ) -> Verdict<T> {
        self.mount(layer, How::Write)?.visit(|tree| change(tree.path()))
    }

    /// Looks at a read-only tree of a layer.
    pub(crate) fn look<T>(&self, layer: &impl Holds, look: impl FnOnce(&Path) -> Verdict<T>) -> Verdict<T> {
        self.mount(layer, How::Read)?.visit(|tree| look(tree.path()))
    }

    pub(crate) fn snapshot(&self, layer: &impl Holds) -> Verdict<Snapshot> {
        self.look(layer, Snapshot::of)
    }

    /// The ids that the driver lists, in order.
    pub(crate) fn listed(&self) -> Verdict<Vec<String>> {
        let mut ids: Vec<String> = self.driver().list()?.into_iter().map(String::from).collect();
        ids.sort();
        Ok(ids)
    }

    /// What there is of the driver outside its memory.
    pub(crate) fn leftovers(&self) -> Verdict<Leftovers> {
        Leftovers::now(self.room)
    }
}

/// What a tree is for, as `Store` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Read,
    Write,
    Apply,
}

/// A layer of any state, for code that is about all of them. A state that forbids the access fails here as a fault of
/// the case, since `Store` has no way to ask.
pub(crate) trait Holds {
    fn hold(&self, store: &Store, how: How, options: &MountOptions) -> mica_core::Result<Hold>;
    fn chain(&self) -> Chain<'_>;
}

impl Holds for Layer<Writable> {
    fn hold(&self, store: &Store, how: How, options: &MountOptions) -> mica_core::Result<Hold> {
        match how {
            How::Read => store.read(self, options),
            How::Write => store.write(self, options),
            How::Apply => store.apply(self, options),
        }
    }

    fn chain(&self) -> Chain<'_> {
        self.chain()
    }
}

impl Holds for Layer<Committed> {
    fn hold(&self, store: &Store, how: How, options: &MountOptions) -> mica_core::Result<Hold> {
        match how {
            How::Read => store.read(self, options),
            How::Write | How::Apply => Err(mica_core::Error::committed(self.id())),
        }
    }

    fn chain(&self) -> Chain<'_> {
        self.chain()
    }
}

impl Holds for Layer<Detached> {
    fn hold(&self, store: &Store, how: How, options: &MountOptions) -> mica_core::Result<Hold> {
        match how {
            How::Apply => store.apply(self, options),
            How::Read | How::Write => Err(mica_core::Error::writable(self.id())),
        }
    }

    fn chain(&self) -> Chain<'_> {
        self.chain()
    }
}

/// The id of this text, which a case wrote and so is one.
#[allow(clippy::panic)]
pub(crate) fn id(name: &str) -> LayerId {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}
