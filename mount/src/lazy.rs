//! Trees that are mounted when somebody looks.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::path::Path;

use mica_core::{Hold, Result, Trees};

use crate::{Mounter, Tree};

/// A tree together with what keeps its layer in use, let go of in this order.
#[derive(Debug)]
pub struct Held {
    tree: Tree,
    hold: Option<Hold>,
}

impl Held {
    /// Mounts what the hold says, and keeps both.
    pub fn open(hold: Hold, mounter: &Mounter) -> Result<Self> {
        let tree = mounter.open(hold.mounts())?;
        Ok(Self { tree, hold: Some(hold) })
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The two, for who attaches the tree. The hold is to outlive it.
    pub fn into_parts(self) -> (Tree, Option<Hold>) {
        (self.tree, self.hold)
    }

    /// Unmounts, then releases, and reports what could not be undone.
    pub fn close(self) -> Result<()> {
        self.tree.close()?;
        self.hold.map_or(Ok(()), Hold::release)
    }
}

impl From<Tree> for Held {
    fn from(tree: Tree) -> Self {
        Self { tree, hold: None }
    }
}

/// A layer's tree and its parent's, each mounted when it is first asked for.
#[derive(Debug)]
pub struct LazyTrees<'a> {
    layer: Lazy<'a, Held>,
    parent: Lazy<'a, Option<Held>>,
}

impl<'a> LazyTrees<'a> {
    /// Trees that these two make. Each is called at most once.
    ///
    /// ```no_run
    /// # use mica_core::{Committed, Layer, MountOptions, Result, Store};
    /// # use mica_mount::{Held, LazyTrees, Mounter};
    /// # fn changes(store: &Store, layer: &Layer<Committed>, parent: Option<&Layer<Committed>>, mounter: &Mounter) -> Result<()> {
    /// let open = |layer| Held::open(store.read(layer, &MountOptions::default())?, mounter);
    /// let trees = LazyTrees::new(|| open(layer), || parent.map(open).transpose());
    /// let changes = store.changes(layer, &trees)?;
    /// # Ok(()) }
    /// ```
    pub fn new(
        layer: impl FnOnce() -> Result<Held> + 'a,
        parent: impl FnOnce() -> Result<Option<Held>> + 'a,
    ) -> Self {
        Self { layer: Lazy::new(layer), parent: Lazy::new(parent) }
    }

    /// Unmounts what was asked for, and reports what could not be undone.
    pub fn close(self) -> Result<()> {
        let layer = self.layer.made.into_inner().map_or(Ok(()), Held::close);
        let parent = self.parent.made.into_inner().flatten().map_or(Ok(()), Held::close);
        layer.and(parent)
    }
}

impl Trees for LazyTrees<'_> {
    fn layer(&self) -> Result<&Path> {
        self.layer.get().map(|held| held.tree.path())
    }

    fn parent(&self) -> Result<Option<&Path>> {
        self.parent.get().map(|held| held.as_ref().map(|held| held.tree.path()))
    }
}

type Make<'a, T> = Box<dyn FnOnce() -> Result<T> + 'a>;

struct Lazy<'a, T> {
    made: OnceCell<T>,
    make: Cell<Option<Make<'a, T>>>,
}

impl<'a, T> Lazy<'a, T> {
    fn new(make: impl FnOnce() -> Result<T> + 'a) -> Self {
        Self { made: OnceCell::new(), make: Cell::new(Some(Box::new(make))) }
    }

    fn get(&self) -> Result<&T> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let make = self.make.take().ok_or_else(|| {
            mica_core::Error::driver("mount a tree", "it could not be mounted when it was asked for before")
        })?;
        let made = make()?;
        Ok(self.made.get_or_init(|| made))
    }
}

impl<T: fmt::Debug> fmt::Debug for Lazy<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lazy").field(&self.made.get()).finish()
    }
}
