//! Adopting what an old Docker left: the images and containers of its data root come into this one.
//!
//! Docker's root is read through a mount that nobody can write to. An image is taken by making the tarballs of its layers
//! again, byte for byte, which Docker kept a record for (tar-split), so it has the id here that it had there. A container is
//! taken as it lies there, stopped, with its id, its name and its config, on its image. Each comes in a transaction of its own;
//! what is here already is not taken twice.

mod busy;
mod config;
mod container;
mod database;
mod format;
mod holes;
mod image;
mod layer;
mod list;
mod network;
mod places;
mod root;
mod split;
mod writable;

use std::path::Path;
use std::sync::Arc;

use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;

use crate::{Engine, Error, Result};
use busy::Quiet;
use database::Database;
use format::Format;
use root::OldRoot;

/// What is to be taken, and how.
#[derive(Clone, Debug, Default)]
pub struct AdoptOptions {
    /// Images by name or id. Where neither these nor containers are named, all are meant that `docker images` shows.
    pub images: Vec<String>,
    /// Containers by name or id, whose images come too.
    pub containers: Vec<String>,
    /// The root is read although a Docker works in it.
    pub force: bool,
    /// A layer whose tarball cannot be made again as it came is taken as it is, and its image gets another id.
    pub accept_changed: bool,
    /// What happens to extended attributes that the host cannot have.
    pub xattrs: UnsupportedXattrs,
}

/// An old data root, and what of it is to be taken.
#[derive(Debug)]
pub struct Adoption<'e> {
    engine: &'e Engine,
    options: AdoptOptions,
    old: Arc<OldRoot>,
    databases: Vec<Database>,
    items: Vec<Item>,
    warnings: Vec<String>,
    _quiet: Quiet,
}

/// An image or a container of an old root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Its names; none of a damaged one.
    pub names: Vec<String>,
    /// Its id, without `sha256:`.
    pub id: String,
    /// The bytes of its files, of a container those of its own layer.
    pub bytes: u64,
    /// It is here already.
    pub is_here: bool,
    /// Why it cannot be taken, where that shows without trying.
    pub refused: Option<String>,
    /// What is not as it should be, a sentence each.
    warnings: Vec<String>,
    /// Which of the databases has it.
    database: usize,
}

/// What can be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An image.
    Image,
    /// A container.
    Container,
}

impl Kind {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Container => "container",
        }
    }
}

impl Item {
    /// What people call it: its first name, else the beginning of its id.
    pub fn name(&self) -> &str {
        self.names.first().map_or_else(|| crate::container::short(&self.id), String::as_str)
    }
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// It was not here before.
    pub is_new: bool,
    /// The id that it has here.
    pub id: String,
    /// What does not come along, or not as it was, a sentence each.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Looks into the data root of an old Docker, and lists what is to be taken, images first. Nothing is taken yet.
    pub fn adoption(&self, dir: &Path, options: AdoptOptions) -> Result<Adoption<'_>> {
        let old = Arc::new(OldRoot::open(self, dir)?);
        let (quiet, warning) = busy::make_sure(&old, options.force)?;
        let mut warnings: Vec<String> = warning.into_iter().collect();
        let mut databases = Vec::new();
        for format in Format::ALL {
            databases.extend(Database::open(&old, format, &mut warnings)?);
        }
        if databases.is_empty() {
            return Err(Error::Invalid(unknown(&old)?));
        }
        let items = Vec::new();
        let mut adoption = Adoption { engine: self, options, old, databases, items, warnings, _quiet: quiet };
        adoption.list()?;
        Ok(adoption)
    }
}

/// Why a directory has nothing for us.
fn unknown(old: &OldRoot) -> Result<String> {
    let place = old.path().display();
    let others = old.names("image")?;
    if !others.is_empty() {
        return Ok(format!(
            "the images of '{place}' are kept by storage driver {}, and aufs and overlay2 can be adopted; save them with \
             'docker save' and take them with 'mica load'",
            others.join(", ")
        ));
    }
    if old.directory("graph")?.is_some() {
        return Ok(format!(
            "'{place}' is of a Docker before 1.10; let one from 1.10 to 1.13 bring it up to date first"
        ));
    }
    Ok(format!("'{place}' is no data root of Docker's: it has no directory 'image'"))
}

impl Adoption<'_> {
    /// What is to be taken.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What is wrong with the old root, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Takes one of the [items](Self::items). After an error nothing of it is left; the others can be taken all the same.
    pub fn take(&self, item: &Item) -> Result<Adopted> {
        if let Some(why) = &item.refused {
            return Err(Error::Invalid(why.clone()));
        }
        let database = &self.databases[item.database];
        match item.kind {
            Kind::Image => {
                let taken = self.take_image(database, database.image(&digest(&item.id)?)?)?;
                let id = taken.image.id().hex();
                Ok(Adopted { is_new: taken.is_new, id, warnings: taken.warnings })
            }
            Kind::Container => {
                let here = Adopted { is_new: false, id: item.id.clone(), warnings: Vec::new() };
                if self.has_container(&item.id) {
                    return Ok(here);
                }
                match self.take_container(database, &item.id) {
                    Ok(lost) => {
                        Ok(Adopted { is_new: true, warnings: [item.warnings.clone(), lost].concat(), ..here })
                    }
                    // Another command took it meanwhile.
                    Err(_) if self.has_container(&item.id) => Ok(here),
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn has_container(&self, id: &str) -> bool {
        self.engine.root().containers().join(id).exists()
    }
}

fn digest(hex: &str) -> Result<Digest> {
    format!("sha256:{hex}").parse().map_err(|e| Error::Invalid(format!("'{hex}' is no image id: {e}")))
}
