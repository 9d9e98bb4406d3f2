//! `manifest.json`, as `docker save` writes it: configs and layers by their path in the archive.

use mica_archive::Digest;
use serde::Deserialize;

use super::source::Source;
use super::{MAX_IMAGES, Plan};
use crate::error::shown;
use crate::{Error, Image, Reference, Result};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads what is to be loaded.
pub(super) fn plans(source: &Source) -> Result<Vec<Plan>> {
    let manifests: Vec<Manifest> = serde_json::from_slice(&source.document("manifest.json")?)
        .map_err(|e| Error::Invalid(format!("manifest.json of the image archive cannot be read: {e}")))?;
    if manifests.len() > MAX_IMAGES {
        return Err(Error::Invalid(format!("manifest.json has more than {MAX_IMAGES} images")));
    }
    manifests.into_iter().map(|manifest| plan(source, manifest)).collect()
}

fn plan(source: &Source, manifest: Manifest) -> Result<Plan> {
    let config = source.find(&manifest.config)?;
    let image = Image::parse(source.document(&manifest.config)?)?;
    if let Some(promised) = digest_in(&manifest.config)
        && promised != *image.id()
    {
        return Err(Error::Invalid(format!(
            "image config '{}' has the digest {}, not that of its name",
            shown(&manifest.config),
            image.id()
        )));
    }
    let layers = manifest.layers.unwrap_or_default();
    if layers.len() != image.diff_ids().len() {
        return Err(Error::Invalid(format!(
            "image {} has {} layers in its config and {} in manifest.json",
            image.id(),
            image.diff_ids().len(),
            layers.len()
        )));
    }
    let layers: Result<Vec<_>> = layers.iter().map(|name| Ok((source.find(name)?, None))).collect();
    let names: Result<Vec<Reference>> =
        manifest.repo_tags.unwrap_or_default().iter().map(|name| name.parse()).collect();
    Ok(Plan { id: *image.id(), config, layers: layers?, names: names?, warnings: Vec::new() })
}

/// The digest by which a config is named: `HEX.json`, or a blob.
fn digest_in(name: &str) -> Option<Digest> {
    let name = name.rsplit('/').next()?;
    format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name)).parse().ok()
}
