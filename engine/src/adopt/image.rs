//! Taking an image: its layers, its config byte for byte, its names.
//!
//! An image is named by what it is. Where a layer's tarball cannot be made again as it came, what is in the layer's
//! directory is something else than the image promises; taken all the same it has a DiffID of its own, and the image
//! another id.

use mica_archive::Digest;
use mica_core::failpoint;
use serde_json::{Value, json};

use super::Adoption;
use super::database::Database;
use super::layer::{Making, OldLayer, OldLayers};
use crate::tags::Tags;
use crate::{Barrier, Error, Image, Reference, Result, images};

/// What becomes of an image's layers.
struct Plan {
    image: Image,
    layers: Vec<OldLayer>,
    makings: Vec<Making>,
    warnings: Vec<String>,
}

/// An image that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) image: Image,
    pub(super) is_new: bool,
    pub(super) warnings: Vec<String>,
}

impl Adoption<'_> {
    /// Takes an image of the old root, or finds it taken.
    pub(super) fn take_image(&self, database: &Database, image: Image) -> Result<Taken> {
        let id = *image.id();
        let Plan { image, layers, makings, mut warnings } = self.plan(database, image)?;
        let is_changed = *image.id() != id;
        let names: Vec<Reference> = database
            .names(&id)
            .iter()
            .filter(|name| !is_changed || name.digest().is_none())
            .cloned()
            .collect();
        let root = self.engine.root();
        let is_new = images::read(root, image.id())?.is_none();
        if !is_new && self.are_known(&names)? {
            return Ok(Taken { image, is_new, warnings });
        }
        self.engine.transaction("adopt an image", Barrier::Disk, |tx| {
            if is_new {
                let tarballs = OldLayers { layers: &layers, makings: &makings, xattrs: self.options.xattrs };
                let store = self.engine.store(None)?;
                let made = self.engine.provide(tx, &store, image.diff_ids(), &tarballs);
                let (_, left_out) = made.map_err(advised)?;
                warnings.extend(left_out);
                failpoint::hit("adopt.provided").map_err(Error::io(|| "adopt an image"))?;
                tx.record_image(image.blob().to_vec())?;
            } else {
                tx.image(&image.id().to_string())?;
            }
            warnings.extend(self.name(&names, image.id())?);
            Ok(())
        })?;
        Ok(Taken { image, is_new, warnings })
    }

    /// Gives an image those of its names that mean nothing here. Of the others, says a warning.
    fn name(&self, names: &[Reference], id: &Digest) -> Result<Vec<String>> {
        let root = self.engine.root();
        let _lock = root.lock()?;
        let mut tags = Tags::read(root)?;
        let mut warnings = Vec::new();
        let mut is_changed = false;
        for name in names {
            match tags.get(name) {
                None => {
                    tags.set(name.clone(), *id);
                    is_changed = true;
                }
                Some(other) if other != id => {
                    warnings.push(format!(
                        "'{name}' means another image here, and goes on to; the old one is {id}"
                    ));
                }
                Some(_) => {}
            }
        }
        if is_changed {
            tags.write(root)?;
        }
        failpoint::hit("image.tagged").map_err(Error::io(|| "name an image"))?;
        Ok(warnings)
    }

    fn plan(&self, database: &Database, image: Image) -> Result<Plan> {
        if images::read(self.engine.root(), image.id())?.is_some() {
            return Ok(Plan { image, layers: Vec::new(), makings: Vec::new(), warnings: Vec::new() });
        }
        let layers = database.layers(&image)?;
        let mut plan =
            Plan { makings: vec![Making::Again; layers.len()], image, layers, warnings: Vec::new() };
        if self.options.accept_changed {
            plan.accept()?;
        }
        Ok(plan)
    }
}

impl Plan {
    /// Looks at each layer whether it can be made again, and has the image name what is there of those that cannot.
    fn accept(&mut self) -> Result<()> {
        let mut diff_ids = self.image.diff_ids().to_vec();
        for ((layer, making), diff_id) in self.layers.iter().zip(&mut self.makings).zip(&mut diff_ids) {
            let why = match layer.digest(Making::Again) {
                Ok(found) if found == layer.diff_id => continue,
                Ok(found) => format!("its digest is {found}"),
                Err(error) => error.to_string(),
            };
            *making = Making::Anew;
            *diff_id = layer.digest(Making::Anew)?;
            self.warnings.push(format!("layer {} is taken as it is now, {diff_id}: {why}", layer.diff_id));
        }
        if diff_ids != self.image.diff_ids() {
            let changed = with_layers(&self.image, &diff_ids)?;
            self.warnings.push(format!("image {} has another id now: {}", self.image.id(), changed.id()));
            self.image = changed;
        }
        Ok(())
    }
}

/// The same image of other layers.
fn with_layers(image: &Image, diff_ids: &[Digest]) -> Result<Image> {
    let refuse = |e: serde_json::Error| Error::Invalid(format!("write an image config: {e}"));
    let mut config: Value = serde_json::from_slice(image.blob()).map_err(refuse)?;
    config["rootfs"]["diff_ids"] = json!(diff_ids);
    Image::parse(serde_json::to_vec(&config).map_err(refuse)?)
}

/// Says what would work where a layer cannot be made again.
fn advised(error: Error) -> Error {
    let mut cause = &error;
    while let Error::Doing { source, .. } = cause {
        cause = source;
    }
    match cause {
        Error::Invalid(_)
        | Error::Archive(mica_archive::Error::Digest { .. } | mica_archive::Error::Corrupt { .. }) => {
            Error::Invalid(format!(
                "{error}; so its tarball cannot be made again as it came: --accept-changed takes what is there, under \
                 another image id"
            ))
        }
        Error::Archive(mica_archive::Error::Attribute { .. }) => {
            Error::Invalid(format!("{error}; '--xattrs warn' goes on without it"))
        }
        _ => error,
    }
}
