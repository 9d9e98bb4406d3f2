//! Loading images from an archive: what `docker save` writes, or an OCI image layout in a tar.
//!
//! Every digest that the archive names is verified, and every layer against the DiffID of the config besides. An
//! image is recorded when all its layers are.

mod docker;
#[cfg(test)]
mod hostile;
mod oci;
mod source;

use std::fs::File;

use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;
use mica_core::Store;
use oci_spec::image::Arch;

use crate::layers::{Consume, Tarballs};
use crate::{Barrier, Engine, Error, Image, Reference, Result, Transaction};
pub(crate) use source::blob_name;
use source::{Source, Span};

/// The most images of one archive.
const MAX_IMAGES: usize = 1000;

/// An image that is to be loaded, checked. Its config is read again when it is needed: together, those of a hostile
/// archive do not fit in memory.
#[derive(Debug)]
struct Plan {
    id: Digest,
    config: Span,
    /// The tarball of each layer, base first, with the digest that it must have as it is.
    layers: Vec<(Span, Option<Digest>)>,
    names: Vec<Reference>,
    /// What is left out, a sentence each.
    warnings: Vec<String>,
}

/// An image that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Its id.
    pub image: Digest,
    /// The names that it got.
    pub names: Vec<Reference>,
    /// What was left out, a sentence each.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Loads every image of an archive. After an error those that were loaded before it stay.
    pub fn load(&self, archive: File, xattrs: UnsupportedXattrs) -> Result<Vec<Loaded>> {
        self.transaction("load", Barrier::Disk, |transaction| {
            let source = Source::open(archive, &transaction.staging().join("archive.tar"))?;
            let plans = if source.has("manifest.json") {
                docker::plans(&source)?
            } else if source.has("index.json") {
                oci::plans(&source)?
            } else {
                return Err(Error::Invalid(
                    "this is no image archive: it has neither manifest.json nor index.json; \
                     'mica import' takes the tarball of a root file system"
                        .to_owned(),
                ));
            };
            if plans.is_empty() {
                let platform = format!("linux/{}", Arch::default());
                return Err(Error::Invalid(format!("the image archive has no image for {platform}")));
            }
            let store = self.store(None)?;
            plans.into_iter().map(|plan| self.load_one(transaction, &store, &source, plan, xattrs)).collect()
        })
    }

    fn load_one(
        &self,
        transaction: &Transaction<'_>,
        store: &Store,
        source: &Source,
        plan: Plan,
        xattrs: UnsupportedXattrs,
    ) -> Result<Loaded> {
        let Plan { id, config, layers, names, mut warnings } = plan;
        let image = Image::parse(source.read(config)?)?;
        if *image.id() != id {
            return Err(Error::Invalid("the image archive changed while it was read".to_owned()));
        }
        let tarballs = Archived { layers: &layers, xattrs };
        let (_, left_out) = self.provide(transaction, store, image.diff_ids(), &tarballs)?;
        warnings.extend(left_out);
        transaction.record_image(image.blob().to_vec())?;
        transaction.tag_all(&names, &id)?;
        Ok(Loaded { image: id, names, warnings })
    }
}

/// The layers of an archive.
struct Archived<'a> {
    layers: &'a [(Span, Option<Digest>)],
    xattrs: UnsupportedXattrs,
}

impl Tarballs for Archived<'_> {
    fn read(&self, index: usize, consume: &mut Consume<'_>) -> Result<()> {
        consume(&mut self.layers[index].0.clone())
    }

    fn blob(&self, index: usize) -> Option<Digest> {
        self.layers[index].1
    }

    fn length(&self, index: usize) -> u64 {
        self.layers[index].0.length()
    }

    fn xattrs(&self, _: usize) -> UnsupportedXattrs {
        self.xattrs
    }
}
