//! What an old Docker wrote down of images and layers: `image/DRIVER` of its data root.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mica_archive::Digest;
use serde::Deserialize;

use super::format::Format;
use super::layer::OldLayer;
use super::root::OldRoot;
use crate::chain::ChainId;
use crate::error::shown;
use crate::{Error, Image, Reference, Result, image};

/// More than the names of any host take, in bytes.
const MAX_NAMES: u64 = 64 << 20;

/// `repositories.json`: for each repository, the image of each of its names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Repositories {
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

/// The images and layers of one storage driver.
#[derive(Debug)]
pub(super) struct Database {
    old: Arc<OldRoot>,
    format: Format,
    names: BTreeMap<Digest, Vec<Reference>>,
}

impl Database {
    /// Reads the names of the images; `None` where Docker never used this driver. What is no name, says a warning.
    pub(super) fn open(
        old: &Arc<OldRoot>,
        format: Format,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>> {
        let mut database = Self { old: Arc::clone(old), format, names: BTreeMap::new() };
        if old.directory(&database.place(""))?.is_none() {
            return Ok(None);
        }
        let place = database.place("/repositories.json");
        let Some(text) = old.read(&place, MAX_NAMES)? else { return Ok(Some(database)) };
        let known: Repositories = serde_json::from_slice(&text)
            .map_err(|e| Error::Invalid(format!("'{}' cannot be read: {e}", old.shown(&place))))?;
        for (name, id) in known.repositories.values().flatten() {
            match (name.parse::<Reference>(), id.parse::<Digest>()) {
                (Ok(name), Ok(id)) => database.names.entry(id).or_default().push(name),
                (Err(error), _) => warnings.push(error.to_string()),
                (_, Err(error)) => {
                    warnings.push(format!("'{}' is the name of no image: {error}", shown(name)));
                }
            }
        }
        Ok(Some(database))
    }

    fn place(&self, below: &str) -> String {
        format!("image/{}{below}", self.format.name())
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The ids of all images.
    pub(super) fn images(&self) -> Result<BTreeSet<Digest>> {
        let names = self.old.names(&self.place("/imagedb/content/sha256"))?;
        Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }

    /// Those that `docker images` shows: all but those without a name that others were built from. One that has a name and is
    /// not there is among them.
    pub(super) fn shown_images(&self) -> Result<BTreeSet<Digest>> {
        let mut shown = self.images()?;
        // What cannot be read hides nothing.
        for parent in shown.clone().iter().filter_map(|id| self.parent(id).ok().flatten()) {
            shown.remove(&parent);
        }
        shown.extend(self.names.keys());
        Ok(shown)
    }

    /// What an image was built from, where that is known.
    fn parent(&self, id: &Digest) -> Result<Option<Digest>> {
        let text = self.old.word(&self.place(&format!("/imagedb/metadata/sha256/{}/parent", id.hex())))?;
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// The names of an image.
    pub(super) fn names(&self, id: &Digest) -> &[Reference] {
        self.names.get(id).map_or(&[], Vec::as_slice)
    }

    /// The image of this name, id, or beginning of an id.
    pub(super) fn find(&self, text: &str) -> Result<Option<Digest>> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(name) = text.parse::<Reference>()
            && let Some((id, _)) = self.names.iter().find(|(_, names)| names.contains(&name))
        {
            return Ok(Some(*id));
        }
        let mut matching =
            self.images()?.into_iter().filter(|id| !hex.is_empty() && id.hex().starts_with(hex));
        match (matching.next(), matching.next()) {
            (Some(_), Some(_)) => Err(Error::Invalid(format!(
                "'{}' begins more than one image id; give more digits",
                shown(text)
            ))),
            (found, _) => Ok(found),
        }
    }

    /// An image, which is what its id says.
    pub(super) fn image(&self, id: &Digest) -> Result<Image> {
        let place = self.place(&format!("/imagedb/content/sha256/{}", id.hex()));
        let blob = self.old.read(&place, image::MAX_CONFIG)?;
        let blob =
            blob.ok_or_else(|| Error::Invalid(format!("'{}' is not there", self.old.shown(&place))))?;
        let found = Digest::of(&blob);
        if found != *id {
            return Err(Error::Invalid(format!(
                "'{}' is damaged: its digest is {found}",
                self.old.shown(&place)
            )));
        }
        Image::parse(blob)
    }

    /// The layers of an image, the base first. Fails where one of them is not what the image says.
    pub(super) fn layers(&self, image: &Image) -> Result<Vec<OldLayer>> {
        image
            .chain()
            .iter()
            .zip(image.diff_ids())
            .map(|(chain, diff_id)| self.layer(chain, diff_id))
            .collect()
    }

    /// The DiffIDs of the layers up to this one, the base first, as Docker has them.
    pub(super) fn diff_ids(&self, top: &ChainId) -> Result<Vec<Digest>> {
        let mut diff_ids = Vec::new();
        let mut next = Some(*top);
        while let Some(chain) = next.filter(|_| diff_ids.len() < image::MAX_LAYERS) {
            let record = self.place(&format!("/layerdb/sha256/{}", chain.hex()));
            let diff_id = self.old.word(&format!("{record}/diff"))?.and_then(|text| text.parse().ok());
            let missing = || Error::Invalid(format!("Docker has no record of the layer '{chain}' below it"));
            diff_ids.push(diff_id.ok_or_else(missing)?);
            next = self.old.word(&format!("{record}/parent"))?.and_then(|id| chain_id(&id));
        }
        diff_ids.reverse();
        Ok(diff_ids)
    }

    fn layer(&self, chain: &ChainId, diff_id: &Digest) -> Result<OldLayer> {
        let record = self.place(&format!("/layerdb/sha256/{}", chain.hex()));
        let word = |name: &str| self.old.word(&format!("{record}/{name}"));
        let refuse = |why: &str| Error::Invalid(format!("layer {diff_id} cannot be taken: {why}"));
        let said = word("diff")?.ok_or_else(|| refuse("Docker has no record of it"))?;
        if said.parse::<Digest>().ok().as_ref() != Some(diff_id) {
            return Err(refuse(&format!("Docker has it as '{}'", shown(&said))));
        }
        let directory = word("cache-id")?.filter(|id| is_id(id)).map(|id| self.format.directory(&id));
        let directory = directory.ok_or_else(|| refuse("its record does not say where it is"))?;
        let size = word("size")?.and_then(|size| size.parse().ok()).unwrap_or_default();
        let split = format!("{record}/tar-split.json.gz");
        Ok(OldLayer {
            old: Arc::clone(&self.old),
            whiteouts: self.format.whiteouts(),
            diff_id: *diff_id,
            directory,
            split,
            size,
        })
    }

    /// The layer of a container: its directory, and the last layer of the image that it stands on.
    pub(super) fn mount(&self, container: &str) -> Result<Option<(String, Option<ChainId>)>> {
        let record = self.place(&format!("/layerdb/mounts/{container}"));
        let word = |name: &str| self.old.word(&format!("{record}/{name}"));
        let Some(layer) = word("mount-id")?.filter(|id| is_id(id)) else { return Ok(None) };
        Ok(Some((layer, word("parent")?.and_then(|id| chain_id(&id)))))
    }
}

fn chain_id(text: &str) -> Option<ChainId> {
    ChainId::from_hex(text.strip_prefix("sha256:")?)
}

/// Whether this names something of Docker's, and leads nowhere else.
pub(super) fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
