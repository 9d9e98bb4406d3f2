//! Tarballs and image archives for tests, made member by member.

use std::io::Write;

use mica_archive::writer::Writer;
use mica_archive::{Digest, Entry, Kind, Time};
use serde_json::{Value, json};

/// A member as a test writes it.
pub(crate) fn entry(path: &str, kind: Kind) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let mtime = Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
    Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
}

pub(crate) fn tar_of(members: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in members {
        writer.append(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

/// Of files, and of directories where the name ends with a slash.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let members: Vec<(Entry, &[u8])> = files
        .iter()
        .map(|(path, content)| {
            let kind = match path.strip_suffix('/') {
                Some(_) => Kind::Directory,
                None => Kind::File { size: content.len() as u64, sparse: None },
            };
            (entry(path, kind), *content)
        })
        .collect();
    tar_of(&members)
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    // The odd space is lost when somebody writes the config anew, and with it the id.
    let text = json!({
        "architecture": oci_spec::image::Arch::default().to_string(),
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": { "Cmd": ["sh"], "Healthcheck": { "Test": ["NONE"] } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    format!("{text} ").into_bytes()
}

/// What `docker save` writes, with the layers uncompressed.
pub(crate) struct DockerArchive {
    pub(crate) members: Vec<(Entry, Vec<u8>)>,
}

impl DockerArchive {
    pub(crate) fn new(tag: &str, layers: &[Vec<u8>]) -> Self {
        let config = config(layers);
        let name = format!("{}.json", Digest::of(&config).hex());
        let layer_name = |index: usize| format!("{index}/layer.tar");
        let manifest = json!([{
            "Config": name,
            "RepoTags": [tag],
            "Layers": (0..layers.len()).map(layer_name).collect::<Vec<_>>(),
        }]);
        let mut archive = Self { members: Vec::new() };
        archive.add(&name, config);
        for (index, layer) in layers.iter().enumerate() {
            archive.add(&layer_name(index), layer.clone());
        }
        archive.add("manifest.json", manifest.to_string().into_bytes());
        archive
    }

    pub(crate) fn add(&mut self, name: &str, content: Vec<u8>) {
        let kind = Kind::File { size: content.len() as u64, sparse: None };
        self.members.push((entry(name, kind), content));
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.members.retain(|(entry, _)| entry.path != name.as_bytes());
        self.members.push((entry(name, Kind::Symlink(target.into())), Vec::new()));
    }

    /// Replaces the content of a member.
    pub(crate) fn replace(&mut self, name: &str, content: Vec<u8>) {
        self.members.retain(|(entry, _)| entry.path != name.as_bytes());
        self.add(name, content);
    }

    pub(crate) fn content(&self, name: &str) -> Value {
        let (_, content) = self.members.iter().find(|(entry, _)| entry.path == name.as_bytes()).unwrap();
        serde_json::from_slice(content).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let members: Vec<(Entry, &[u8])> =
            self.members.iter().map(|(entry, content)| (entry.clone(), &content[..])).collect();
        tar_of(&members)
    }
}

/// An OCI image layout, with the layers compressed.
pub(crate) struct OciArchive {
    pub(crate) archive: DockerArchive,
    pub(crate) manifest: Value,
    pub(crate) annotations: Value,
    /// What else the index lists.
    pub(crate) more: Vec<Value>,
}

impl OciArchive {
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        let mut archive = DockerArchive { members: Vec::new() };
        let config = blob(&mut archive, config(layers));
        let layers: Vec<Value> = layers.iter().map(|layer| blob(&mut archive, gzip(layer))).collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        Self {
            archive,
            manifest,
            annotations: json!({ "org.opencontainers.image.ref.name": "oci.example/app:1" }),
            more: Vec::new(),
        }
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        let mut manifest = blob(&mut self.archive, self.manifest.to_string().into_bytes());
        manifest["annotations"] = self.annotations;
        self.more.push(manifest);
        let index = json!({ "schemaVersion": 2, "manifests": self.more });
        self.archive.add("index.json", index.to_string().into_bytes());
        self.archive.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        self.archive.bytes()
    }
}

/// Adds a blob and returns its descriptor. What kind it is matters for configs only.
pub(crate) fn blob(archive: &mut DockerArchive, content: Vec<u8>) -> Value {
    let digest = Digest::of(&content);
    let descriptor = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": content.len(),
    });
    archive.add(&format!("blobs/sha256/{}", digest.hex()), content);
    descriptor
}
