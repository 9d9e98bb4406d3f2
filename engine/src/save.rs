//! Saving images: one tar that is an OCI image layout and what `docker load` reads, as Docker's own is.
//!
//! Layers come out uncompressed, byte for byte as they came in, and are verified while they are written.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use mica_archive::writer::Writer;
use mica_archive::{Digest, Entry, Kind, Time};
use serde_json::{Value, json};

use crate::chain::ChainId;
use crate::load::blob_name;
use crate::{Barrier, Engine, Error, Image, Reference, Result, Transaction, images, layers, pipe};

/// An image that is to be saved, with the names under which it was asked for.
struct Saved {
    image: Image,
    names: Vec<Reference>,
    manifest: Vec<u8>,
}

impl Engine {
    /// Writes images to `out`. Only after success is what was written an archive.
    ///
    /// An image that is asked for by a tag is saved with that name, one asked for by id or digest without any. None of them
    /// is removed meanwhile.
    pub fn save(&self, names: &[String], out: impl Write) -> Result<()> {
        self.transaction("save", Barrier::None, |transaction| {
            let images = self.to_save(transaction, names)?;
            self.write_archive(&images, out)
        })
    }

    fn write_archive(&self, images: &[Saved], out: impl Write) -> Result<()> {
        let mut archive = Writer::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            archive.append(&entry(directory, Kind::Directory), &mut io::empty())?;
        }
        let mut layers: BTreeMap<Digest, ChainId> = BTreeMap::new();
        let mut documents: BTreeMap<Digest, &[u8]> = BTreeMap::new();
        for saved in images {
            layers.extend(saved.image.diff_ids().iter().copied().zip(saved.image.chain().iter().copied()));
            documents.insert(*saved.image.id(), saved.image.blob());
            documents.insert(Digest::of(&saved.manifest), &saved.manifest);
        }
        for (digest, content) in documents {
            file(&mut archive, &blob_name(&digest), content)?;
        }
        for (diff_id, chain) in &layers {
            self.save_layer(&mut archive, diff_id, chain)?;
        }
        file(&mut archive, "index.json", &text(&index(images))?)?;
        file(&mut archive, "manifest.json", &text(&docker_manifest(images))?)?;
        file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()?;
        Ok(())
    }

    fn to_save(&self, transaction: &Transaction<'_>, names: &[String]) -> Result<Vec<Saved>> {
        let mut saved: Vec<Saved> = Vec::new();
        for text in names {
            let found = images::find(self.root(), text)?;
            let name = if let images::Found::ByName(name, _) = &found { Some(name.clone()) } else { None };
            let name = name.filter(|name| name.tag().is_some());
            match saved.iter_mut().find(|known| known.image.id() == found.id()) {
                Some(known) => known.names.extend(name.filter(|name| !known.names.contains(name))),
                None => {
                    let image = transaction.image(&found.id().to_string())?;
                    let manifest = self.manifest(&image)?;
                    saved.push(Saved { image, names: name.into_iter().collect(), manifest });
                }
            }
        }
        Ok(saved)
    }

    /// The OCI manifest of an image with uncompressed layers.
    fn manifest(&self, image: &Image) -> Result<Vec<u8>> {
        let mut descriptors = Vec::with_capacity(image.chain().len());
        for (chain, diff_id) in image.chain().iter().zip(image.diff_ids()) {
            let size = layers::record(self.root(), chain)?.tar_size;
            descriptors.push(descriptor("application/vnd.oci.image.layer.v1.tar", diff_id, size));
        }
        text(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", image.id(), image.blob().len() as u64),
            "layers": descriptors,
        }))
    }

    fn save_layer<W: Write>(&self, archive: &mut Writer<W>, diff_id: &Digest, chain: &ChainId) -> Result<()> {
        let size = layers::record(self.root(), chain)?.tar_size;
        let entry = entry(&blob_name(diff_id), Kind::File { size, sparse: None });
        pipe::through(
            |writer| self.reproduce(chain, writer).map(drop),
            |reader| Ok(archive.append(&entry, reader)?),
        )
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

fn index(images: &[Saved]) -> Value {
    let mut manifests = Vec::new();
    for saved in images {
        let mut one = descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            &Digest::of(&saved.manifest),
            saved.manifest.len() as u64,
        );
        if saved.names.is_empty() {
            manifests.push(one.clone());
        }
        for name in &saved.names {
            one["annotations"] = json!({
                "io.containerd.image.name": name.whole(),
                "org.opencontainers.image.ref.name": name.tag(),
            });
            manifests.push(one.clone());
        }
    }
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
}

fn docker_manifest(images: &[Saved]) -> Value {
    images
        .iter()
        .map(|saved| {
            json!({
                "Config": blob_name(saved.image.id()),
                "RepoTags": saved.names.iter().map(Reference::to_string).collect::<Vec<_>>(),
                "Layers": saved.image.diff_ids().iter().map(blob_name).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn text(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::Invalid(format!("write a manifest: {e}")))
}

fn file<W: Write>(archive: &mut Writer<W>, name: &str, mut content: &[u8]) -> Result<()> {
    let kind = Kind::File { size: content.len() as u64, sparse: None };
    let content: &mut dyn Read = &mut content;
    Ok(archive.append(&entry(name, kind), content)?)
}

/// Without a time, so that the same images give the same archive.
fn entry(name: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { path: name.into(), kind, mode, uid: 0, gid: 0, mtime: Time::default(), xattrs: Vec::new() }
}
