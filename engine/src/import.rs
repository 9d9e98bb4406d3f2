//! Making an image of one tarball, or of a container's layer.

use std::io::Read;

use mica_archive::Digest;
use mica_archive::apply::UnsupportedXattrs;
use mica_archive::ingest::Expected;
use mica_core::{Begun, LayerOptions, MountOptions, Store, failpoint};
use oci_spec::image::{Arch, Config, History, ImageConfiguration, Os, RootFs};

use crate::chain::ChainId;
use crate::transaction::NewLayer;
use crate::{Barrier, Engine, Error, Image, Reference, Result, Transaction, change};

/// How a tarball becomes an image.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name of the image.
    pub name: Option<Reference>,
    /// Changes of its config, a Dockerfile instruction each.
    pub changes: Vec<String>,
    /// What its history says.
    pub message: String,
    /// What happens to extended attributes that the host cannot have.
    pub xattrs: UnsupportedXattrs,
}

/// What became an image.
#[derive(Debug)]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// What was left out, a sentence each.
    pub warnings: Vec<String>,
}

/// An image that stands on another: what a container's commit makes.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// What it stands on.
    pub parent: &'a Image,
    /// Where the layer is.
    pub store: &'a Store,
    /// What it adds; `None` when only the config differs.
    pub layer: Option<NewLayer>,
    /// How containers of it run.
    pub config: Config,
    /// The command that made the difference.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// Who made it.
    pub author: Option<String>,
    /// Its name.
    pub tag: Option<Reference>,
}

impl Engine {
    /// Makes an image of one layer from a tarball of a root file system, in any compression.
    pub fn import(&self, source: &mut (dyn Read + Send), options: &ImportOptions) -> Result<Imported> {
        let mut config = Config::default();
        options.changes.iter().try_for_each(|line| change::apply(&mut config, line))?;
        let store = self.store(None)?;
        self.transaction("import", Barrier::Disk, |transaction| {
            let (diff_id, warnings) = import_layer(self, transaction, &store, source, options.xattrs)?;
            let history = history(|entry| {
                entry.set_comment(Some(options.message.clone()));
            });
            let image = transaction.record_image(blob(config, &[diff_id], vec![history], None)?)?;
            if let Some(name) = &options.name {
                transaction.tag(name, image.id())?;
            }
            Ok(Imported { image, warnings })
        })
    }
}

fn import_layer(
    engine: &Engine,
    transaction: &Transaction<'_>,
    store: &Store,
    source: &mut (dyn Read + Send),
    xattrs: UnsupportedXattrs,
) -> Result<(Digest, Vec<String>)> {
    let hit = |point| failpoint::hit(point).map_err(Error::io(|| "import a tarball".to_owned()));
    let id = transaction.new_layer(store)?;
    hit("import.announced")?;
    let layer = match store.create(id, None, &LayerOptions::default())? {
        Begun::Fresh(layer) => layer,
        Begun::Ready(layer) => return Err(mica_core::Error::layer_exists(layer.id()).into()),
    };
    hit("layer.created")?;
    let hold = store.apply(&layer, &MountOptions::default())?;
    let split = transaction.staging().join("split");
    let mut filled = engine.fill(hold, source, &Expected::default(), xattrs, split)?;
    hit("layer.filled")?;
    let layer = store.commit(layer)?;
    hit("layer.committed")?;
    store.sync([&layer])?;
    hit("layers.synced")?;
    let (diff_id, warnings) = (filled.diff_id, std::mem::take(&mut filled.applied.warnings));
    transaction.record_layer(None, store, &filled.committed(layer))?;
    Ok((diff_id, warnings))
}

impl Transaction<'_> {
    /// Records an image on top of another, with its layer and its name.
    pub fn commit_image(&self, new: NewImage<'_>) -> Result<Image> {
        let mut diff_ids = new.parent.diff_ids().to_vec();
        if let Some(layer) = &new.layer {
            let mut chain = new.parent.chain().to_vec();
            chain.push(ChainId::new(new.parent.top(), &layer.diff_id));
            self.need(&chain)?;
            self.record_layer(new.parent.top(), new.store, layer)?;
            diff_ids.push(layer.diff_id);
        }
        let mut past = new.parent.config().history().clone().unwrap_or_default();
        past.push(history(|entry| {
            entry.set_created_by(Some(new.created_by.clone()));
            entry.set_comment(Some(new.comment.clone()).filter(|text| !text.is_empty()));
            entry.set_author(new.author.clone());
            entry.set_empty_layer(new.layer.is_none().then_some(true));
        }));
        let image = self.record_image(blob(new.config, &diff_ids, past, new.author)?)?;
        if let Some(name) = &new.tag {
            self.tag(name, image.id())?;
        }
        Ok(image)
    }
}

fn history(fill: impl FnOnce(&mut History)) -> History {
    let mut entry = History::default();
    entry.set_created(Some(now()));
    fill(&mut entry);
    entry
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The bytes of a config, with its keys in order.
fn blob(config: Config, diff_ids: &[Digest], past: Vec<History>, author: Option<String>) -> Result<Vec<u8>> {
    let mut image = ImageConfiguration::default();
    image.set_created(Some(now()));
    image.set_author(author);
    image.set_architecture(Arch::default());
    image.set_os(Os::default());
    image.set_config(Some(config));
    let mut rootfs = RootFs::default();
    rootfs.set_typ("layers".to_owned());
    rootfs.set_diff_ids(diff_ids.iter().map(Digest::to_string).collect());
    image.set_rootfs(rootfs);
    image.set_history(Some(past));
    let text = serde_json::to_value(&image).and_then(|value| serde_json::to_vec(&value));
    text.map_err(|e| Error::Invalid(format!("write an image config: {e}")))
}
