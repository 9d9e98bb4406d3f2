//! An OCI image layout: `index.json`, and blobs by their digest (OCI image specification, "Image Layout").

use std::collections::BTreeMap;

use mica_archive::Digest;
use oci_spec::image::Arch;
use serde::Deserialize;

use super::source::{Source, blob_name};
use super::{MAX_IMAGES, Plan};
use crate::{Error, Image, Reference, Result};

/// An index in an index in an index is more than anybody writes.
const MAX_DEPTH: usize = 4;

/// A manifest or an index. Which one it is must be plain from what it has (CVE-2021-41190).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: Digest,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Platform {
    fn is_this_host(&self) -> bool {
        self.os == "linux" && self.architecture == Arch::default().to_string()
    }
}

/// Reads what is to be loaded: of each entry of the index, the image for this host.
pub(super) fn plans(source: &Source) -> Result<Vec<Plan>> {
    let index = parse(&source.document("index.json")?, "index.json")?;
    let Some(entries) = index.manifests else {
        return Err(Error::Invalid("index.json of the image archive is no index".to_owned()));
    };
    let mut plans = Vec::new();
    for entry in bounded(entries)? {
        let names = names(&entry)?;
        plans.extend(image(source, &entry, names, 0)?);
    }
    Ok(plans)
}

/// The image that a descriptor leads to, unless it is for another platform.
fn image(source: &Source, entry: &Descriptor, names: Vec<Reference>, depth: usize) -> Result<Option<Plan>> {
    if entry.platform.as_ref().is_some_and(|platform| !platform.is_this_host()) {
        return Ok(None);
    }
    let document = parse(&sized(source, entry)?, &entry.digest.to_string())?;
    match (document.manifests, document.config, document.layers) {
        (Some(entries), None, None) if depth < MAX_DEPTH => {
            for entry in bounded(entries)? {
                if let Some(plan) = image(source, &entry, names.clone(), depth + 1)? {
                    return Ok(Some(plan));
                }
            }
            Err(Error::Invalid(format!(
                "image index {} has no image for linux/{}",
                entry.digest,
                Arch::default()
            )))
        }
        (Some(_), None, None) => {
            Err(Error::Invalid(format!("image index {} is nested too deep", entry.digest)))
        }
        (None, Some(config), layers) => plan(source, &config, layers.unwrap_or_default(), names).map(Some),
        _ => Err(Error::Invalid(format!("{} is neither an image manifest nor an index", entry.digest))),
    }
}

fn plan(
    source: &Source,
    config: &Descriptor,
    layers: Vec<Descriptor>,
    names: Vec<Reference>,
) -> Result<Plan> {
    let span = source.find(&blob_name(&config.digest))?;
    let image = Image::parse(sized(source, config)?)?;
    if layers.len() != image.diff_ids().len() {
        return Err(Error::Invalid(format!(
            "image {} has {} layers in its config and {} in its manifest",
            image.id(),
            image.diff_ids().len(),
            layers.len()
        )));
    }
    let mut spans = Vec::with_capacity(layers.len());
    for layer in layers {
        let span = source.find(&blob_name(&layer.digest))?;
        check_size(&layer, span.length())?;
        spans.push((span, Some(layer.digest)));
    }
    Ok(Plan { id: config.digest, config: span, layers: spans, names, warnings: Vec::new() })
}

fn sized(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let content = source.blob(&descriptor.digest)?;
    check_size(descriptor, content.len() as u64)?;
    Ok(content)
}

fn check_size(descriptor: &Descriptor, found: u64) -> Result<()> {
    if found == descriptor.size {
        return Ok(());
    }
    let Descriptor { digest, size, .. } = descriptor;
    Err(Error::Invalid(format!(
        "blob {digest} of the image archive has {found} bytes, its descriptor says {size}"
    )))
}

fn parse(text: &[u8], name: &str) -> Result<Document> {
    let refuse = |why: String| Error::Invalid(format!("{name} of the image archive cannot be used: {why}"));
    let document: Document = serde_json::from_slice(text).map_err(|e| refuse(e.to_string()))?;
    if document.schema_version != 2 {
        return Err(refuse(format!("its schema version is {}, not 2", document.schema_version)));
    }
    let is_manifest = document.layers.is_some() || document.config.is_some();
    if is_manifest && document.manifests.is_some() {
        return Err(refuse("it is a manifest and an index at once (CVE-2021-41190)".to_owned()));
    }
    if let Some(kind) = &document.media_type {
        let says_index = kind.contains("index") || kind.contains("manifest.list");
        if says_index != document.manifests.is_some() {
            return Err(refuse(format!("it says that it is '{kind}', and has the parts of something else")));
        }
    }
    Ok(document)
}

fn bounded(entries: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
    if entries.len() > MAX_IMAGES {
        return Err(Error::Invalid(format!("an image index has more than {MAX_IMAGES} entries")));
    }
    Ok(entries)
}

/// The name that the writer gave the image, if it is a whole one: some write the tag alone.
fn names(entry: &Descriptor) -> Result<Vec<Reference>> {
    let annotations = entry.annotations.clone().unwrap_or_default();
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Ok(vec![name.parse()?]);
    }
    match annotations.get("org.opencontainers.image.ref.name") {
        Some(name) if name.contains([':', '/']) => Ok(vec![name.parse()?]),
        _ => Ok(Vec::new()),
    }
}
