//! How a layer is mounted.

use std::path::PathBuf;

use mica_core::mount::{Bind, Overlay, Upper};
use mica_core::{Chain, LayerId, MountOptions, MountSpec, Mounts, Quota, Result, WhiteoutForm, failpoint};

use crate::layer::{Layer, State};
use crate::{Overlay2, quota};

impl Overlay2 {
    /// The layer's own directory over those of its parents.
    pub(crate) fn read(&self, layer: &Layer, chain: Chain<'_>, options: &MountOptions) -> Result<Mounts> {
        if chain.parents.is_empty() {
            return Ok(alone(layer, true, options, WhiteoutForm::Merged));
        }
        let mut lowers = vec![layer.diff()];
        lowers.extend(self.diffs(chain.parents));
        Ok(whole(Overlay { lowers, ..self.overlay(options) }))
    }

    /// The layer's own directory, written, over those of its parents.
    pub(crate) fn write(&self, layer: &Layer, chain: Chain<'_>, options: &MountOptions) -> Result<Mounts> {
        self.limit_by_default(layer)?;
        if chain.parents.is_empty() {
            return Ok(alone(layer, false, options, WhiteoutForm::Merged));
        }
        let work = layer.make_work()?;
        if let Some(quotas) = &self.quotas {
            quotas.join(&layer.open_diff()?, &work).map_err(layer.failed("limit"))?;
        }
        failpoint::hit("overlay2.mounts.work").map_err(layer.failed("mount"))?;
        Ok(whole(Overlay {
            lowers: self.diffs(chain.parents).collect(),
            upper: Some(Upper { dir: layer.diff(), work: layer.work() }),
            volatile: options.volatile && self.options.volatile && self.host.volatile,
            ..self.overlay(options)
        }))
    }

    /// The layer's own directory. That of a base layer is its whole tree, where a deletion deletes.
    pub(crate) fn apply(&self, layer: &Layer, chain: Chain<'_>, options: &MountOptions) -> Result<Mounts> {
        let base = chain.parents.is_empty() && layer.state()? == State::Writable;
        let whiteouts = if base { WhiteoutForm::Merged } else { self.marks() };
        Ok(alone(layer, false, options, whiteouts))
    }

    /// The directories that a mount for writing is made of, by the names that Docker has for them.
    pub(crate) fn places(&self, layer: &Layer, chain: Chain<'_>) -> Vec<(String, String)> {
        let lowers: Vec<_> = self.diffs(chain.parents).map(|dir| dir.display().to_string()).collect();
        let mut rows = vec![("UpperDir".to_owned(), layer.diff().display().to_string())];
        if !lowers.is_empty() {
            rows.push(("WorkDir".to_owned(), layer.work().display().to_string()));
            rows.push(("LowerDir".to_owned(), lowers.join(":")));
        }
        rows
    }

    /// How overlayfs marks deletions in a layer's own directory.
    pub(crate) fn marks(&self) -> WhiteoutForm {
        WhiteoutForm::Overlay { user_xattr: self.host.user_xattr }
    }

    fn overlay(&self, options: &MountOptions) -> Overlay {
        Overlay {
            user_xattr: self.host.user_xattr,
            label: options.label.clone(),
            id_map: options.id_map.clone(),
            ..Overlay::default()
        }
    }

    fn diffs(&self, ids: &[LayerId]) -> impl Iterator<Item = PathBuf> {
        ids.iter().map(|id| Layer::at(self.shelf.path(id), id).diff())
    }

    /// Gives a layer that is mounted for writing for the first time the limits of the driver's options, if it has none.
    fn limit_by_default(&self, layer: &Layer) -> Result<()> {
        let wanted = Quota { bytes: self.options.size.map(|size| size.0), inodes: self.options.inodes };
        let Some(quotas) = quota::wanted(self.quotas.as_ref(), &wanted)? else {
            return Ok(());
        };
        let diff = layer.open_diff()?;
        let none = quotas.project(&diff).map_err(layer.failed("limit"))? == 0;
        if none && layer.is_empty()? {
            quotas.limit(&diff, &wanted).map_err(layer.failed("limit"))?;
        }
        Ok(())
    }
}

fn whole(overlay: Overlay) -> Mounts {
    Mounts { specs: vec![MountSpec::Overlay(overlay)], whiteouts: WhiteoutForm::Merged }
}

fn alone(layer: &Layer, read_only: bool, options: &MountOptions, whiteouts: WhiteoutForm) -> Mounts {
    let bind = Bind { source: layer.diff(), read_only, id_map: options.id_map.clone(), ..Bind::default() };
    Mounts { specs: vec![MountSpec::Bind(bind)], whiteouts }
}
