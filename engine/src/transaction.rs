//! Making things so that a crash at any moment leaves nothing behind.
//!
//! A transaction announces in its intent what it begins, works, and puts records in place by one rename each. When it
//! ends, however it ends, the same code settles it: what was begun and no record names is removed, and so is every
//! layer that it touched and no image needs. After a crash the next command settles it from the intent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mica_archive::Digest;
use mica_core::{Committed, Layer, LayerId, Store, durable, failpoint};

use crate::chain::ChainId;
use crate::container::{Settings, Source};
use crate::image::Image;
use crate::intent::{self, Barrier, Intent, Line};
use crate::layers::{self, Record};
use crate::tags::Tags;
use crate::{Engine, Error, Reference, Result, images};

/// Something that is being made. See the module's text.
#[derive(Debug)]
pub struct Transaction<'e> {
    engine: &'e Engine,
    intent: Intent,
    staging: PathBuf,
    kept: Mutex<Kept>,
}

/// What a transaction knows to be named by records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) layers: BTreeSet<LayerId>,
    pub(crate) volumes: BTreeSet<String>,
}

/// A finished layer of a driver, to be recorded as a layer of an image.
#[derive(Debug)]
pub struct NewLayer {
    /// Committed and synced, made under an id of [`Transaction::new_layer`].
    pub layer: Layer<Committed>,
    /// The digest of its uncompressed tarball.
    pub diff_id: Digest,
    /// The bytes of the files in it.
    pub size: u64,
    /// The length of its uncompressed tarball.
    pub tar_size: u64,
    /// What it takes to reproduce the tarball: a file in the staging directory, which is moved.
    pub split: PathBuf,
    /// It hides all that is below it; see [`Record::opaque`].
    pub opaque: bool,
    /// It lacks attributes that the host cannot have; see [`Record::lenient`].
    pub lenient: bool,
}

impl Engine {
    /// Does `work`, whose beginnings are announced in an intent, and settles it. `what` says to people what it is
    /// for. After an error nothing of it is left but what it recorded and an image or a container needs.
    pub fn transaction<T>(
        &self,
        what: &str,
        barrier: Barrier,
        work: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let intent = Intent::begin(self.root(), what, barrier)?;
        let staging = self.root().tmp().join(intent.id());
        if let Err(error) = fs::create_dir(&staging) {
            intent.end()?;
            return Err(Error::io(|| format!("create '{}'", staging.display()))(error));
        }
        let transaction = Transaction { engine: self, intent, staging, kept: Mutex::default() };
        let done = work(&transaction).and_then(|value| transaction.done().map(|()| value));
        let Transaction { intent, kept, .. } = transaction;
        match done {
            Ok(value) => {
                let kept = kept.into_inner().unwrap_or_else(PoisonError::into_inner);
                self.settle(intent, Some(&kept))?;
                Ok(value)
            }
            Err(error) => {
                // What cannot be undone now stays announced; the next command tries again and reports it.
                let _ = self.settle(intent, None);
                Err(error)
            }
        }
    }
}

impl Transaction<'_> {
    /// A directory for what is not ready, on the file system of the root. It is deleted in the end.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// The image of this name, which is not removed before the transaction ended.
    pub fn image(&self, name: &str) -> Result<Image> {
        let root = self.engine.root();
        let _lock = root.lock()?;
        let found = images::find(root, name)?;
        self.intent.add(Line::Pin(*found.id()))?;
        images::read(root, found.id())?.ok_or_else(|| Error::no_such("image", name))
    }

    /// Keeps these layers, recorded or not yet, until the transaction ended. Those that no image needs then are removed.
    pub fn need(&self, chain: &[ChainId]) -> Result<()> {
        let _lock = self.engine.root().lock()?;
        self.intent.add_all(chain.iter().map(|id| Line::Chain(*id)))
    }

    /// A name for a new layer of this store, announced: the layer is removed in the end unless it is recorded.
    pub fn new_layer(&self, store: &Store) -> Result<LayerId> {
        self.engine.adopt_driver(store.driver().name())?;
        let id: LayerId = intent::random_id()?.parse()?;
        self.discard(store, &id)?;
        Ok(id)
    }

    /// Announces that a layer goes. It is removed in the end unless a record still names it.
    pub fn discard(&self, store: &Store, id: &LayerId) -> Result<()> {
        self.intent.add(Line::Layer { driver: store.driver().name().to_owned(), id: id.clone() })
    }

    /// A record names this layer now. To be called right after the rename that put the record in place.
    pub fn keep(&self, id: &LayerId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).layers.insert(id.clone());
    }

    /// A container names its volumes now.
    pub(crate) fn keep_volumes(&self, settings: &Settings) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.volumes.extend(settings.volumes().map(str::to_owned));
    }

    /// Announces that the volumes which were made for a container alone go with it.
    pub(crate) fn discard_volumes(&self, settings: &Settings) -> Result<()> {
        self.intent.add_all(settings.mounts.iter().filter_map(|mount| match &mount.source {
            Source::Volume { name, anonymous: true } => Some(Line::Volume(name.clone())),
            _ => None,
        }))
    }

    /// Records a layer of an image. Where the driver has the same content on the same layers already, that one stays and
    /// this one is removed in the end.
    pub fn record_layer(&self, parent: Option<&ChainId>, store: &Store, new: &NewLayer) -> Result<ChainId> {
        let root = self.engine.root();
        let driver = store.driver().name().to_owned();
        let chain = ChainId::new(parent, &new.diff_id);
        self.need(&[chain])?;
        let staged = self.staging.join(format!("{}.record", new.layer.id()));
        self.stage_record(&staged, parent, &driver, new)?;
        failpoint::hit("layer.staged").map_err(Error::io(|| "record a layer".to_owned()))?;
        let _lock = root.lock()?;
        match layers::read(root, &chain)? {
            None => {
                let place = layers::directory(root, &chain);
                durable::rename(&staged, &place)
                    .map_err(Error::io(|| format!("move a record to '{}'", place.display())))?;
            }
            Some(record) if record.drivers.contains_key(&driver) => return Ok(chain),
            Some(mut record) => {
                record.drivers.insert(driver, new.layer.id().clone());
                record.opaque |= new.opaque;
                layers::write(&layers::directory(root, &chain), &record)?;
            }
        }
        self.keep(new.layer.id());
        failpoint::hit("layer.recorded").map_err(Error::io(|| "record a layer".to_owned()))?;
        Ok(chain)
    }

    fn stage_record(
        &self,
        staged: &Path,
        parent: Option<&ChainId>,
        driver: &str,
        new: &NewLayer,
    ) -> Result<()> {
        let failed = || format!("write '{}'", staged.display());
        fs::create_dir(staged).map_err(Error::io(failed))?;
        let split = staged.join("split");
        fs::rename(&new.split, &split).map_err(Error::io(failed))?;
        fs::File::open(&split).and_then(|file| file.sync_all()).map_err(Error::io(failed))?;
        let record = Record {
            diff_id: new.diff_id,
            parent: parent.copied(),
            size: new.size,
            tar_size: new.tar_size,
            opaque: new.opaque,
            lenient: new.lenient,
            drivers: [(driver.to_owned(), new.layer.id().clone())].into(),
            init: BTreeMap::new(),
            init_elsewhere: None,
        };
        layers::write(staged, &record)
    }

    /// Records an image, whose layers are recorded. It has no name yet; unless the transaction succeeds, it is
    /// removed when it got none.
    pub fn record_image(&self, blob: Vec<u8>) -> Result<Image> {
        let hit = |point| failpoint::hit(point).map_err(Error::io(|| "record an image".to_owned()));
        let image = Image::parse(blob)?;
        let root = self.engine.root();
        let staged = self.staging.join(format!("{}.config", image.id().hex()));
        images::stage(&image, &staged)?;
        let _lock = root.lock()?;
        if !images::path(root, image.id()).exists() {
            self.intent.add(Line::Image(*image.id()))?;
        } else {
            self.intent.add(Line::Pin(*image.id()))?;
        }
        // One that is there already may be damaged; this one is not.
        hit("image.staged")?;
        images::place(root, &image, &staged)?;
        hit("image.recorded")?;
        Ok(image)
    }

    /// Lets a name mean this image.
    pub fn tag(&self, name: &Reference, image: &Digest) -> Result<()> {
        self.tag_all(std::slice::from_ref(name), image)
    }

    /// Lets these names mean this image, all or, after an error, none.
    pub fn tag_all(&self, names: &[Reference], image: &Digest) -> Result<()> {
        if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
            return Err(Error::Invalid(format!("'{name}' has a digest; a new name is NAME or NAME:TAG")));
        }
        if names.is_empty() {
            return Ok(());
        }
        let root = self.engine.root();
        let _lock = root.lock()?;
        let mut tags = Tags::read(root)?;
        for name in names {
            tags.set(name.clone(), *image);
        }
        tags.write(root)?;
        failpoint::hit("image.tagged").map_err(Error::io(|| "name an image".to_owned()))
    }

    pub(crate) fn announce(&self, line: Line) -> Result<()> {
        self.intent.add(line)
    }

    /// What others have announced and not ended. The caller has the root's lock.
    pub(crate) fn announced_by_others(&self) -> Result<Vec<Line>> {
        intent::announced(self.engine.root(), self.intent.id())
    }

    /// Says that an init layer was made on top of a recorded layer.
    pub(crate) fn record_init(
        &self,
        chain: &ChainId,
        store: &Store,
        id: &LayerId,
        elsewhere: BTreeSet<String>,
    ) -> Result<()> {
        let root = self.engine.root();
        let _lock = root.lock()?;
        let mut record = layers::record(root, chain)?;
        record.init.insert(store.driver().name().to_owned(), id.clone());
        record.init_elsewhere = Some(elsewhere);
        layers::write(&layers::directory(root, chain), &record)?;
        self.keep(id);
        Ok(())
    }

    fn done(&self) -> Result<()> {
        failpoint::hit("transaction.working").map_err(Error::io(|| "end a transaction".to_owned()))?;
        self.intent.add(Line::Done)
    }
}
