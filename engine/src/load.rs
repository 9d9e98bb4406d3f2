//! Loading images from an archive: what `docker save` writes, or an OCI image layout in a tar.
//!
//! Every digest that the archive names is verified, and every layer against the DiffID of the config besides. An
//! image is recorded when all its layers are.

mod docker;
mod oci;
mod source;

use std::fs::File;

use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;

use crate::layers::{Consume, Tarballs};
use crate::{Barrier, Engine, Error, Image, Reference, Result};
pub(crate) use source::blob_name;
use source::{Source, Span};

/// An image that is to be loaded.
#[derive(Debug)]
struct Plan {
    image: Image,
    /// The tarball of each layer, base first, with the digest that it must have as it is.
    layers: Vec<(Span, Option<Digest>)>,
    names: Vec<Reference>,
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
            let store = self.store(None)?;
            let mut loaded = Vec::new();
            for plan in plans {
                let tarballs = Archived { layers: &plan.layers, xattrs };
                let (_, warnings) = self.provide(transaction, &store, plan.image.diff_ids(), &tarballs)?;
                let image = transaction.record_image(plan.image.blob().to_vec())?;
                for name in &plan.names {
                    transaction.tag(name, image.id())?;
                }
                loaded.push(Loaded { image: *image.id(), names: plan.names, warnings });
            }
            if loaded.is_empty() {
                return Err(Error::Invalid("the image archive has no image for this host".to_owned()));
            }
            Ok(loaded)
        })
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
