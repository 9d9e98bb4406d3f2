//! Loading archives of others, and refusing hostile ones.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use mica_archive::{Digest, Kind};
use serde_json::json;

use crate::archives::{DockerArchive, OciArchive, blob, config, entry, gzip, tar};
use crate::home::Home;

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[("etc/", b""), ("etc/a", b"1"), ("etc/b", b"2"), ("opt/", b""), ("opt/x", b"x")]),
        tar(&[("etc/", b""), ("etc/.wh.a", b""), ("opt/", b""), ("opt/.wh..wh..opq", b""), ("opt/y", b"y")]),
        tar(&[("etc/", b""), ("etc/c", b"3")]),
    ]
}

fn loaded(home: &Home, archive: &[u8]) -> String {
    let file = home.file("archive.tar", archive);
    home.ok(&["load", "-i", &file])
}

fn refused(archive: &[u8]) -> String {
    let home = Home::new();
    let file = home.file("archive.tar", archive);
    let text = home.refused(&["load", "-i", &file]);
    home.assert_empty();
    text
}

#[test]
fn what_docker_saves_keeps_its_id_and_its_layers() {
    let home = Home::new();
    let archive = DockerArchive::new("app:1", &layers());
    assert_eq!(loaded(&home, &archive.bytes()), "Loaded image: app:1\n");
    let id = Digest::of(&config(&layers()));
    assert_eq!(home.ok(&["images", "-q", "--no-trunc"]).trim(), id.to_string());
    assert_eq!(home.names("layers").len(), 3);
    home.assert_consistent();
    home.ok(&["rmi", "app:1"]);
    home.assert_empty();
}

/// Overlayfs shows a whiteout as a file where the directory below does not exist, and always in a single layer.
#[test]
fn whiteouts_that_hide_nothing_are_not_in_any_tree() {
    let home = Home::new();
    let base = tar(&[(".wh.nothing", b""), ("etc/", b""), ("etc/.wh.gone", b""), ("etc/a", b"1")]);
    let next = tar(&[("new/", b""), ("new/.wh.gone", b""), ("new/b", b"2"), ("etc/.wh.a", b"")]);
    loaded(&home, &DockerArchive::new("app:1", &[base, next]).bytes());
    let mut found = Vec::new();
    let mut dirs = vec![home.root().join("storage")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_type().unwrap().is_char_device() {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    assert_eq!(found, ["a"]);
    home.assert_consistent();
}

#[test]
fn an_oci_layout_loads_with_compressed_layers() {
    let home = Home::new();
    assert_eq!(loaded(&home, &OciArchive::new(&layers()).bytes()), "Loaded image: oci.example/app:1\n");
    home.assert_consistent();
}

#[test]
fn an_archive_may_be_compressed_and_come_through_a_pipe() {
    let home = Home::new();
    let answer = home.with_input(&["load"], &gzip(&DockerArchive::new("app:1", &layers()).bytes()));
    assert_eq!(answer.out, "Loaded image: app:1\n", "{answer:?}");
    home.assert_consistent();
}

#[test]
fn a_layer_may_be_a_link_to_the_same_layer_of_another_image() {
    let home = Home::new();
    let same = tar(&[("a", b"a")]);
    let mut archive = DockerArchive::new("app:1", &[same.clone(), tar(&[("b", b"")]), same]);
    archive.link("2/layer.tar", "../0/layer.tar");
    loaded(&home, &archive.bytes());
    assert_eq!(home.names("layers").len(), 3, "the same tarball on something else is another layer");
    home.assert_consistent();
}

#[test]
fn of_an_index_the_image_for_this_host_is_taken() {
    let home = Home::new();
    let mut oci = OciArchive::new(&layers());
    let ours = blob(&mut oci.archive, oci.manifest.to_string().into_bytes());
    let mut entries = vec![ours.clone(), ours];
    entries[0]["platform"] = json!({ "os": "plan9", "architecture": "mips" });
    entries[1]["platform"] =
        json!({ "os": "linux", "architecture": oci_spec::image::Arch::default().to_string() });
    oci.manifest = json!({ "schemaVersion": 2, "manifests": entries });
    loaded(&home, &oci.bytes());
    home.assert_consistent();

    let mut oci = OciArchive::new(&layers());
    let mut theirs = blob(&mut oci.archive, oci.manifest.to_string().into_bytes());
    theirs["platform"] = json!({ "os": "plan9", "architecture": "mips" });
    oci.manifest = json!({ "schemaVersion": 2, "manifests": [theirs] });
    assert!(refused(&oci.bytes()).contains("has no image for linux/"));
}

/// A signature, a list of parts: stored like an image, beside it, by the tools of registries.
#[test]
fn what_is_stored_like_an_image_and_is_none_is_left_out() {
    let mut oci = OciArchive::new(&layers());
    let mut config = blob(&mut oci.archive, b"{}".to_vec());
    config["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    let artifact = json!({ "schemaVersion": 2, "config": config, "layers": [config] }).to_string();
    let artifact = blob(&mut oci.archive, artifact.into_bytes());
    oci.more.push(artifact);
    let home = Home::new();
    assert_eq!(loaded(&home, &oci.bytes()), "Loaded image: oci.example/app:1\n");
    home.assert_consistent();

    let mut oci = OciArchive::new(&[]);
    oci.manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    assert!(refused(&oci.bytes()).contains("has no image for linux/"));
}

#[test]
fn where_an_index_tells_no_platforms_the_configs_do() {
    let mut oci = OciArchive::new(&layers());
    let ours = blob(&mut oci.archive, oci.manifest.to_string().into_bytes());
    let other: serde_json::Value = serde_json::from_slice(&config(&[])).unwrap();
    let other = json!({ "architecture": "mips", "os": "linux", "rootfs": other["rootfs"] });
    let config = blob(&mut oci.archive, other.to_string().into_bytes());
    let theirs = json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
    let theirs = blob(&mut oci.archive, theirs.into_bytes());
    oci.manifest = json!({ "schemaVersion": 2, "manifests": [theirs, ours] });
    let home = Home::new();
    loaded(&home, &oci.bytes());
    assert_eq!(home.names("layers").len(), 3);
}

/// `amd64/v3` is for some processors only, and there is no telling from here.
#[test]
fn an_image_for_every_processor_goes_before_one_for_the_newer() {
    let mut oci = OciArchive::new(&layers());
    let mut ours = blob(&mut oci.archive, oci.manifest.to_string().into_bytes());
    let mut newer = blob(&mut oci.archive, OciArchive::new(&[]).manifest.to_string().into_bytes());
    let platform = json!({ "os": "linux", "architecture": oci_spec::image::Arch::default().to_string() });
    (ours["platform"], newer["platform"]) = (platform.clone(), platform);
    newer["platform"]["variant"] = json!("v3");
    oci.manifest = json!({ "schemaVersion": 2, "manifests": [newer, ours] });
    let home = Home::new();
    loaded(&home, &oci.bytes());
    assert_eq!(home.names("layers").len(), 3);
}

/// The specification of `ref.name` allows more than a tag may be, and containerd exports images by their digest.
#[test]
fn a_name_that_cannot_be_a_tag_does_not_keep_the_image_out() {
    let digest = Digest::of(b"manifest");
    for (key, name) in [
        ("io.containerd.image.name", format!("docker.io/library/app@{digest}")),
        ("io.containerd.image.name", format!("docker.io/library/app:1@{digest}")),
        ("org.opencontainers.image.ref.name", "Team/App:1+2".to_owned()),
    ] {
        let mut oci = OciArchive::new(&layers());
        oci.annotations = json!({ key: name });
        let home = Home::new();
        let file = home.file("archive.tar", &oci.bytes());
        let answer = home.run(&["load", "-i", &file]);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert!(answer.err.contains("without a name") && answer.out.starts_with("Loaded image ID: "));
        home.assert_consistent();
    }
}

#[test]
fn one_great_config_in_many_images_does_not_fill_the_memory() {
    let mut archive = DockerArchive::new("app:1", &[]);
    let mut great = config(&[]);
    great.resize(7 << 20, b' ');
    archive.add("great", great);
    let image = json!({ "Config": "great", "Layers": [] });
    archive.replace("manifest.json", json!(vec![image; 50]).to_string().into_bytes());
    assert!(refused(&archive.bytes()).contains("bytes together"));
}

#[test]
fn more_images_than_an_archive_has_are_refused() {
    let mut archive = DockerArchive::new("app:1", &[]);
    let manifest = archive.content("manifest.json")[0].clone();
    archive.replace("manifest.json", json!(vec![manifest; 1001]).to_string().into_bytes());
    assert!(refused(&archive.bytes()).contains("more than 1000"));
}

#[test]
fn what_an_archive_says_is_not_printed_without_end() {
    let mut archive = DockerArchive::new("app:1", &layers());
    let mut manifest = archive.content("manifest.json");
    manifest[0]["Config"] = json!("x".repeat(100_000));
    archive.replace("manifest.json", manifest.to_string().into_bytes());
    let text = refused(&archive.bytes());
    assert!(text.contains("has no file 'xxx") && text.len() < 400, "{text}");
}

#[test]
fn the_images_of_a_second_driver_have_the_same_tree() {
    let home = Home::new();
    let ten: Vec<Vec<u8>> = (0..10)
        .map(|index| {
            let name = format!("d/file-{index}");
            let gone = format!("d/.wh.file-{}", index - 2);
            tar(&[("d/", b""), (&name, name.as_bytes()), (&gone, b"")])
        })
        .collect();
    let archive = DockerArchive::new("ten:1", &ten).bytes();
    loaded(&home, &archive);
    let other = Home::new();
    let file = other.file("archive.tar", &archive);
    other.ok(&["--storage-driver", "vfs", "load", "-i", &file]);
    assert_eq!(home.run(&["save", "ten:1"]).out, other.run(&["save", "ten:1"]).out);
    home.assert_consistent();
    other.assert_consistent();
}

#[test]
fn cve_2021_41190_a_manifest_that_is_an_index_too_is_refused() {
    let mut oci = OciArchive::new(&layers());
    oci.manifest["manifests"] = json!([]);
    assert!(refused(&oci.bytes()).contains("a manifest and an index at once"));
    let mut oci = OciArchive::new(&layers());
    oci.manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    assert!(refused(&oci.bytes()).contains("has the parts of something else"));
}

#[test]
fn every_digest_is_verified() {
    let other = |text: &str| Digest::of(text.as_bytes());
    // The config is not what its name says (CVE-2014-8178).
    let mut archive = DockerArchive::new("app:1", &layers());
    let name = archive.content("manifest.json")[0]["Config"].as_str().unwrap().to_owned();
    let mut changed = config(&layers());
    changed.push(b'\n');
    archive.replace(&name, changed);
    assert!(refused(&archive.bytes()).contains("not that of its name"));
    // A layer is not what the config says.
    let mut archive = DockerArchive::new("app:1", &layers());
    archive.replace("1/layer.tar", tar(&[("etc/evil", b"")]));
    assert!(refused(&archive.bytes()).contains("DiffID"));
    // A blob is not what its name says.
    let mut oci = OciArchive::new(&layers());
    let name = format!("blobs/sha256/{}", Digest::of(&gzip(&layers()[2])).hex());
    let size = gzip(&layers()[2]).len();
    oci.archive.replace(&name, vec![0; size]);
    refused(&oci.bytes());
    // A layer is there, but under another digest.
    let mut oci = OciArchive::new(&layers());
    oci.manifest["layers"][0]["digest"] = json!(other("nobody"));
    assert!(refused(&oci.bytes()).contains("has no file"));
    let mut oci = OciArchive::new(&layers());
    oci.manifest["layers"][0]["size"] = json!(7);
    assert!(refused(&oci.bytes()).contains("its descriptor says 7"));
}

#[test]
fn what_is_not_supported_is_called_by_its_name() {
    let sha512 = json!(format!("sha512:{}", "0123456789abcdef".repeat(8)));
    let mut oci = OciArchive::new(&layers());
    oci.manifest["layers"][0]["digest"] = sha512.clone();
    assert!(refused(&oci.bytes()).contains("'sha512:0123"));
    let mut oci = OciArchive::new(&layers());
    oci.more.push(json!({ "digest": sha512, "size": 2 }));
    assert!(refused(&oci.bytes()).contains("only sha256 is"));

    let mut oci = OciArchive::new(&layers());
    oci.manifest["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    let text = refused(&oci.bytes());
    assert!(text.contains("is encrypted") && text.contains("decrypt the image first"), "{text}");
}

#[test]
fn cve_2024_3727_a_digest_is_never_a_path() {
    let mut oci = OciArchive::new(&layers());
    oci.manifest["config"]["digest"] = json!("sha256:../../../../etc/passwd");
    assert!(refused(&oci.bytes()).contains("is not a digest"));
}

#[test]
fn names_that_lead_out_of_the_archive_are_refused() {
    for name in ["../manifest.json", "/etc/passwd", "a/../../b"] {
        let mut archive = DockerArchive::new("app:1", &layers());
        archive.add(name, b"x".to_vec());
        assert!(refused(&archive.bytes()).contains("no plain relative path"), "{name}");
    }
    for target in ["/etc/passwd", "../../etc/passwd"] {
        let mut archive = DockerArchive::new("app:1", &layers());
        archive.link("0/layer.tar", target);
        assert!(refused(&archive.bytes()).contains("leads out of it"), "{target}");
    }
    // CVE-2024-9676: what is no file is not read.
    let mut archive = DockerArchive::new("app:1", &layers());
    archive.members.push((entry("fifo", Kind::Fifo), Vec::new()));
    assert!(refused(&archive.bytes()).contains("is a device"));
}

#[test]
fn archives_that_do_not_agree_with_themselves_are_refused() {
    // In a circle.
    let mut archive = DockerArchive::new("app:1", &layers());
    archive.link("0/layer.tar", "../1/layer.tar");
    archive.link("1/layer.tar", "../0/layer.tar");
    assert!(refused(&archive.bytes()).contains("has no file"));
    // Twice.
    let mut archive = DockerArchive::new("app:1", &layers());
    archive.add("manifest.json", b"[]".to_vec());
    assert!(refused(&archive.bytes()).contains("is there twice"));
    // Fewer layers than the config has.
    let mut archive = DockerArchive::new("app:1", &layers());
    let mut manifest = archive.content("manifest.json");
    manifest[0]["Layers"] = json!(["0/layer.tar"]);
    archive.replace("manifest.json", manifest.to_string().into_bytes());
    assert!(refused(&archive.bytes()).contains("3 layers in its config and 1"));
    // A name that is none.
    let mut archive = DockerArchive::new("app:1", &layers());
    let mut manifest = archive.content("manifest.json");
    manifest[0]["RepoTags"] = json!(["../../etc:1"]);
    archive.replace("manifest.json", manifest.to_string().into_bytes());
    assert!(refused(&archive.bytes()).contains("invalid image name"));
    // No images.
    let mut archive = DockerArchive { members: Vec::new() };
    archive.add("manifest.json", b"[]".to_vec());
    assert!(refused(&archive.bytes()).contains("no image"));
    assert!(refused(&tar(&[("etc/motd", b"")])).contains("'mica import'"));
}

#[test]
fn an_archive_that_was_cut_off_is_refused() {
    let archive = DockerArchive::new("app:1", &layers()).bytes();
    let end = archive.len() - 1024;
    assert!(refused(&archive[..end - 1]).contains("cut off in the middle of a member"));
    assert!(refused(&archive[..end]).contains("cut off between two members"));
}

#[test]
fn cve_2023_25153_a_document_without_end_is_not_read_to_its_end() {
    let mut archive = DockerArchive::new("app:1", &layers());
    archive.replace("manifest.json", vec![b' '; 9 << 20]);
    assert!(refused(&archive.bytes()).contains("more than the limit"));
}

#[test]
fn directories_that_a_layer_does_not_list_keep_what_the_parent_has() {
    let home = Home::new();
    let mut private = entry("srv/", Kind::Directory);
    (private.mode, private.uid) = (0o700, 7);
    let base = crate::archives::tar_of(&[(private, b"")]);
    loaded(&home, &DockerArchive::new("app:1", &[base, tar(&[("srv/x", b"x")])]).bytes());
    let storage = home.root().join("storage");
    let mut seen = 0;
    let mut pending = vec![storage];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() && entry.file_name() == "srv" {
                use std::os::unix::fs::MetadataExt;
                assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, 7), "{}", entry.path().display());
                seen += 1;
            } else if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    assert_eq!(seen, 2);
}
