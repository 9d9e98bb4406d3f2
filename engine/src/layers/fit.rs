//! Fitting a layer that was extracted alone to what it stands on.

use std::os::fd::AsFd;

use mica_archive::apply::adopt;
use mica_core::{Committed, Detached, Layer, MountOptions, Store};
use mica_mount::Held;

use super::fill::Filled;
use crate::{Engine, Result};

impl Engine {
    /// Gives directories that the tarball did not list what the parent has for them, and takes away whiteouts that have
    /// nothing to hide, which overlayfs would show as files.
    pub(crate) fn fit(
        &self,
        store: &Store,
        layer: &Layer<Detached>,
        parent: Option<&Layer<Committed>>,
        filled: &Filled,
    ) -> Result<()> {
        let applied = &filled.applied;
        if applied.hiding.is_empty() && (parent.is_none() || applied.implied.is_empty()) {
            return Ok(());
        }
        let mounter = self.mounter();
        let options = MountOptions::default();
        let below = parent.map(|parent| Held::open(store.read(parent, &options)?, &mounter)).transpose()?;
        let tree = Held::open(store.apply(layer, &options)?, &mounter)?;
        adopt(tree.tree().root().as_fd(), below.as_ref().map(|below| below.tree().root()), applied)?;
        tree.close()?;
        below.map_or(Ok(()), Held::close)?;
        Ok(())
    }
}
