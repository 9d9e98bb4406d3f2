//! umoci, which unpacks OCI layouts, and packs what was changed in one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use mica_archive::Digest;
use mica_conformance::tree::Times;
use serde_json::Value;

use super::{ask, assert_same, directory, lacks, packed, samples, text, tree};
use crate::archives::DockerArchive;
use crate::home::Home;

/// A root with the samples in it, and what `save` made of them, as an OCI layout.
fn saved() -> (Home, PathBuf) {
    let home = Home::new();
    let file = home.file("made.tar", &DockerArchive::new("samples:1", &samples::layers()).bytes());
    home.ok(&["--storage-driver", "vfs", "load", "-i", &file]);
    let saved = text(&home.dir.path().join("saved.tar")).to_owned();
    home.ok(&["save", "-o", &saved, "samples:1"]);
    let layout = directory(&home, "layout");
    ask("tar", &["-C", text(&layout), "-xf", &saved]);
    // umoci does not know that the list of the other form stands beside its own.
    fs::remove_file(layout.join("manifest.json")).unwrap();
    (home, layout)
}

fn image(layout: &Path, tag: &str) -> String {
    format!("{}:{tag}", text(layout))
}

/// The id of the image with this tag: the digest of its config.
fn id(layout: &Path, tag: &str) -> String {
    let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(layout.join("index.json"));
    let entry = index["manifests"].as_array().unwrap().iter();
    let mut named = entry.filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == tag);
    let digest: Digest = named.next().unwrap()["digest"].as_str().unwrap().parse().unwrap();
    json(layout.join("blobs/sha256").join(digest.hex()))["config"]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn umoci_unpacks_what_is_saved_to_the_same_tree() {
    if lacks("umoci", "umoci-unpacks") {
        return;
    }
    let (home, layout) = saved();
    let bundle = home.dir.path().join("bundle");
    ask("umoci", &["unpack", "--image", &image(&layout, "1"), text(&bundle)]);
    assert_same(&tree(&home), &bundle.join("rootfs"), Times::OfFiles);
}

#[test]
fn what_umoci_packs_again_is_loaded_as_the_tree_that_it_packed() {
    if lacks("umoci", "umoci-packs") {
        return;
    }
    let (home, layout) = saved();
    let bundle = home.dir.path().join("bundle");
    ask("umoci", &["unpack", "--image", &image(&layout, "1"), text(&bundle)]);
    let rootfs = bundle.join("rootfs");
    fs::remove_dir_all(rootfs.join("d")).unwrap();
    fs::write(rootfs.join("d"), "a file now").unwrap();
    fs::remove_dir_all(rootfs.join("opaque")).unwrap();
    fs::create_dir(rootfs.join("opaque")).unwrap();
    symlink("/opaque", rootfs.join("opaque/link")).unwrap();
    fs::remove_file(rootfs.join("setuid")).unwrap();
    fs::set_permissions(rootfs.join("tmp"), PermissionsExt::from_mode(0o2750)).unwrap();
    chown(rootfs.join("hollow"), Some(7), Some(8)).unwrap();
    ask("umoci", &["repack", "--image", &image(&layout, "2"), text(&bundle)]);
    ask("umoci", &["config", "--image", &image(&layout, "2"), "--config.env", "A=1"]);

    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    ask("umoci", &["rm", "--image", &image(&layout, "1")]);
    let wanted = id(&layout, "2");
    let elsewhere = Home::new();
    elsewhere.ok(&["--storage-driver", "vfs", "load", "-i", &packed(&layout)]);
    assert_eq!(elsewhere.ok(&["images", "-q", "--no-trunc"]).trim(), wanted);
    // umoci writes whole seconds.
    assert_same(&tree(&elsewhere), &rootfs, Times::Ignored);
    elsewhere.assert_consistent();
}

#[test]
fn an_image_that_umoci_made_of_nothing_is_loaded_and_saved() {
    if lacks("umoci", "umoci-nothing") {
        return;
    }
    let home = Home::new();
    let layout = home.dir.path().join("layout");
    ask("umoci", &["init", "--layout", text(&layout)]);
    ask("umoci", &["new", "--image", &image(&layout, "1")]);
    let wanted = id(&layout, "1");
    assert_eq!(home.ok(&["load", "-i", &packed(&layout)]), format!("Loaded image ID: {wanted}\n"));
    let saved = text(&home.dir.path().join("saved.tar")).to_owned();
    home.ok(&["save", "-o", &saved, &wanted]);
    home.ok(&["rmi", &wanted]);
    home.assert_empty();
    assert_eq!(home.ok(&["load", "-i", &saved]), format!("Loaded image ID: {wanted}\n"));
}
