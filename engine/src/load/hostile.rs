//! Documents that nobody would write: whatever stands in them, the answer is a plan or an error of one line.

use std::collections::BTreeMap;
use std::io::Write;

use mica_archive::writer::Writer;
use mica_archive::{Digest, Entry, Kind, Time};
use oci_spec::image::Arch;
use proptest::prelude::*;

use super::source::{Source, blob_name};
use super::{docker, oci};

/// Values where others belong.
const VALUES: [&str; 14] = [
    "null",
    "-1",
    "2",
    "1e400",
    "18446744073709551615",
    "340282366920938463463374607431768211456",
    "\"\"",
    "\"../../etc/passwd\"",
    "\"sha256:\"",
    "\"a\\nb\\u0000\\u001b[2J\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "{\"digest\":1,\"digest\":2}",
];

/// A change of a document.
#[derive(Clone, Debug)]
enum Edit {
    /// The value that begins here, or the part of it up to a comma, becomes another one.
    Value(prop::sample::Index, &'static str),
    /// It becomes a list in a list, so many times.
    Nested(prop::sample::Index, usize),
    /// Bytes in the place of others.
    Bytes(prop::sample::Index, usize, Vec<u8>),
    /// The rest is missing.
    Cut(prop::sample::Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = any::<prop::sample::Index>;
    let edit = prop_oneof![
        4 => (at(), prop::sample::select(&VALUES[..])).prop_map(|(at, value)| Edit::Value(at, value)),
        1 => (at(), 1..400usize).prop_map(|(at, depth)| Edit::Nested(at, depth)),
        2 => (at(), 0..8usize, prop::collection::vec(any::<u8>(), 0..8))
            .prop_map(|(at, length, bytes)| Edit::Bytes(at, length, bytes)),
        1 => at().prop_map(Edit::Cut),
    ];
    prop::collection::vec(edit, 0..4)
}

fn edited(text: String, edits: &[Edit]) -> Vec<u8> {
    let mut text = text.into_bytes();
    for edit in edits {
        if text.is_empty() {
            break;
        }
        match edit {
            Edit::Value(at, value) => put_value(&mut text, at, value.as_bytes()),
            Edit::Nested(at, depth) => {
                put_value(&mut text, at, format!("{}{}", "[".repeat(*depth), "]".repeat(*depth)).as_bytes());
            }
            Edit::Bytes(at, length, bytes) => {
                let start = at.index(text.len());
                let end = text.len().min(start + length);
                text.splice(start..end, bytes.iter().copied());
            }
            Edit::Cut(at) => text.truncate(at.index(text.len())),
        }
    }
    text
}

fn put_value(text: &mut Vec<u8>, at: &prop::sample::Index, value: &[u8]) {
    let starts: Vec<usize> = (0..text.len()).filter(|&i| matches!(text[i], b':' | b'[' | b',')).collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[at.index(starts.len())] + 1;
    let length = text[start..].iter().position(|byte| matches!(byte, b',' | b']' | b'}')).unwrap_or(0);
    text.splice(start..start + length, value.iter().copied());
}

/// An archive of documents, opened.
fn source(documents: &BTreeMap<String, Vec<u8>>) -> Source {
    let mut archive = Writer::new(Vec::new());
    for (name, content) in documents {
        let kind = Kind::File { size: content.len() as u64, sparse: None };
        let entry = Entry {
            path: name.clone().into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
        };
        archive.append(&entry, &mut &content[..]).unwrap();
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&archive.finish().unwrap()).unwrap();
    Source::open(file, &std::env::temp_dir().join("unused")).unwrap()
}

fn config(layer: &Digest) -> String {
    format!(
        r#"{{"architecture":"{}","os":"linux","created":"2026-11-21T00:00:00Z",
        "config":{{"Env":["A=1"],"Cmd":["sh"],"User":"0","ExposedPorts":{{"80/tcp":{{}}}}}},
        "rootfs":{{"type":"layers","diff_ids":["{layer}"]}},"history":[{{"created_by":"x","empty_layer":false}}]}}"#,
        Arch::default()
    )
}

fn descriptor(kind: &str, content: &[u8]) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(content), content.len())
}

fn index(manifest: &[u8]) -> String {
    format!(
        r#"{{"schemaVersion":2,"manifests":[{{"platform":{{"os":"linux","architecture":"{}"}},
        "annotations":{{"org.opencontainers.image.ref.name":"a:1"}},"digest":"{}","size":{}}}]}}"#,
        Arch::default(),
        Digest::of(manifest),
        manifest.len()
    )
}

/// An OCI layout of one image, whose digests are right whatever was edited.
fn layout(of_config: &[Edit], of_manifest: &[Edit], of_index: &[Edit], is_nested: bool) -> Source {
    let layer = b"layer".to_vec();
    let config = edited(config(&Digest::of(&layer)), of_config);
    let parts = (
        descriptor("application/vnd.oci.image.config.v1+json", &config),
        descriptor("application/vnd.oci.image.layer.v1.tar", &layer),
    );
    let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, parts.0, parts.1);
    let manifest = edited(manifest, of_manifest);
    let middle = index(&manifest).into_bytes();
    let index = edited(index(if is_nested { &middle } else { &manifest }), of_index);
    let blobs = [layer, config, manifest, middle].map(|blob| (blob_name(&Digest::of(&blob)), blob));
    let documents: BTreeMap<String, Vec<u8>> =
        blobs.into_iter().chain([("index.json".to_owned(), index)]).collect();
    source(&documents)
}

/// What `docker save` writes, of one image.
fn docker_archive(of_config: &[Edit], of_manifest: &[Edit]) -> Source {
    let manifest = r#"[{"Config":"config.json","RepoTags":["a:1"],"Layers":["a/layer.tar"]}]"#;
    let documents = [
        ("config.json", edited(config(&Digest::of(b"layer")), of_config)),
        ("a/layer.tar", b"layer".to_vec()),
        ("manifest.json", edited(manifest.to_owned(), of_manifest)),
    ];
    source(&documents.map(|(name, content)| (name.to_owned(), content)).into())
}

fn answers_in_one_line<T>(result: crate::Result<T>) -> Result<(), TestCaseError> {
    if let Err(error) = result {
        let text = error.to_string();
        prop_assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cve_2021_21285_whatever_an_oci_layout_holds_is_a_plan_or_an_error(
        of_config in edits(), of_manifest in edits(), of_index in edits(), is_nested: bool,
    ) {
        answers_in_one_line(oci::plans(&layout(&of_config, &of_manifest, &of_index, is_nested)))?;
    }

    #[test]
    fn cve_2021_21285_whatever_a_docker_archive_holds_is_a_plan_or_an_error(
        of_config in edits(), of_manifest in edits(),
    ) {
        answers_in_one_line(docker::plans(&docker_archive(&of_config, &of_manifest)))?;
    }
}

#[test]
fn what_is_not_edited_is_a_plan() {
    for is_nested in [false, true] {
        assert_eq!(oci::plans(&layout(&[], &[], &[], is_nested)).unwrap().len(), 1);
    }
    assert_eq!(docker::plans(&docker_archive(&[], &[])).unwrap().len(), 1);
}
