//! An OCI image layout: `index.json`, and blobs by their digest (OCI image specification, "Image Layout").

use std::collections::BTreeMap;

use mica_archive::Digest;
use oci_spec::image::Arch;
use serde::Deserialize;

use super::source::{Source, blob_name};
use super::{MAX_IMAGES, Plan};
use crate::error::shown;
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
    media_type: Option<String>,
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
    variant: Option<String>,
}

impl Platform {
    fn is_this_host(&self) -> bool {
        is_this_host(&self.os, &self.architecture)
    }
}

fn is_this_host(os: &str, architecture: &str) -> bool {
    os == "linux" && architecture == Arch::default().to_string()
}

/// The configs of images. What has another kind is something that is stored like an image: a signature, a list of
/// parts.
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Reads what is to be loaded: of each entry of the index, the image for this host.
pub(super) fn plans(source: &Source) -> Result<Vec<Plan>> {
    let index = parse(&source.document("index.json")?, "index.json")?;
    let Some(entries) = index.manifests else {
        return Err(Error::Invalid("index.json of the image archive is no index".to_owned()));
    };
    let mut plans = Vec::new();
    for entry in bounded(entries)? {
        if let Some(plan) = image(source, &entry, 0)? {
            let (names, warnings) = names(&entry);
            plans.push(Plan { names, warnings, ..plan });
        }
    }
    Ok(plans)
}

/// The image that a descriptor leads to, unless that is for another platform, or no image.
fn image(source: &Source, entry: &Descriptor, depth: usize) -> Result<Option<Plan>> {
    if entry.platform.as_ref().is_some_and(|platform| !platform.is_this_host()) {
        return Ok(None);
    }
    let document = parse(&sized(source, entry)?, &entry.digest.to_string())?;
    match (document.manifests, document.config, document.layers) {
        (Some(entries), None, None) if depth < MAX_DEPTH => chosen(source, entries, depth + 1),
        (Some(_), None, None) => {
            Err(Error::Invalid(format!("image index {} is nested too deep", entry.digest)))
        }
        (None, Some(config), _) if config.media_type.as_ref().is_some_and(|kind| !is_config(kind)) => {
            Ok(None)
        }
        (None, Some(config), layers) => {
            let (plan, is_ours) = plan(source, &config, layers.unwrap_or_default())?;
            // A choice of platforms is made by the configs where the index does not say. An image that stands for
            // itself is loaded whatever it is for.
            Ok((is_ours || depth == 0 || entry.platform.is_some()).then_some(plan))
        }
        _ => Err(Error::Invalid(format!("{} is neither an image manifest nor an index", entry.digest))),
    }
}

/// The image for this host in an index: one for all its processors rather than one for the newer ones.
fn chosen(source: &Source, entries: Vec<Descriptor>, depth: usize) -> Result<Option<Plan>> {
    let mut entries = bounded(entries)?;
    entries.sort_by_key(|entry| entry.platform.as_ref().is_some_and(|platform| platform.variant.is_some()));
    for entry in &entries {
        if let Some(plan) = image(source, entry, depth)? {
            return Ok(Some(plan));
        }
    }
    Ok(None)
}

fn is_config(media_type: &str) -> bool {
    CONFIGS.contains(&media_type)
}

/// The image of a config, without a name, and whether it is for this host.
fn plan(source: &Source, config: &Descriptor, layers: Vec<Descriptor>) -> Result<(Plan, bool)> {
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
        refuse_encrypted(&layer)?;
        let span = source.find(&blob_name(&layer.digest))?;
        check_size(&layer, span.length())?;
        spans.push((span, Some(layer.digest)));
    }
    let is_ours = is_this_host(&image.config().os().to_string(), &image.config().architecture().to_string());
    let (id, names, warnings) = (config.digest, Vec::new(), Vec::new());
    Ok((Plan { id, config: span, layers: spans, names, warnings }, is_ours))
}

/// What has this at the end of its media type is a layer after encryption (ocicrypt's addition to the OCI image
/// specification). Its DiffID is that of the plain layer.
const ENCRYPTED: &str = "+encrypted";

fn refuse_encrypted(layer: &Descriptor) -> Result<()> {
    match &layer.media_type {
        Some(kind) if kind.ends_with(ENCRYPTED) => Err(Error::Invalid(format!(
            "layer {} of the image archive is encrypted ('{}'), which is not supported: decrypt the image first, for \
             example by 'skopeo copy --decryption-key'",
            layer.digest,
            shown(kind)
        ))),
        _ => Ok(()),
    }
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
            return Err(refuse(format!(
                "it says that it is '{}', and has the parts of something else",
                shown(kind)
            )));
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

/// The name that the writer gave the image, if it is a whole one: some write the tag alone. A name that means something
/// to its writer only is left out, with a warning.
fn names(entry: &Descriptor) -> (Vec<Reference>, Vec<String>) {
    let annotation = |key: &str| entry.annotations.as_ref().and_then(|all| all.get(key));
    let whole = |name: &&String| name.contains([':', '/']);
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(whole));
    let left_out = |why: &str| vec![format!("an image of the archive is left without a name: {why}")];
    match name.map(|name| name.parse::<Reference>()) {
        None => (Vec::new(), Vec::new()),
        Some(Ok(name)) if name.digest().is_some() => {
            (Vec::new(), left_out(&format!("'{name}' has a digest, which no tag can have")))
        }
        Some(Ok(name)) => (vec![name], Vec::new()),
        Some(Err(error)) => (Vec::new(), left_out(&error.to_string())),
    }
}
