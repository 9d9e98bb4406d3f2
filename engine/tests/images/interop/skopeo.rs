//! skopeo, which copies images between the forms that they have.

use serde_json::Value;

use super::{ask, directory, lacks, packed, samples, text, tree};
use crate::archives::DockerArchive;
use crate::home::Home;

fn skopeo(arguments: &[&str]) -> String {
    ask("skopeo", &[&["--insecure-policy"], arguments].concat())
}

fn copy(from: &str, to: &str) {
    skopeo(&["copy", "--quiet", from, to]);
}

/// The id of an image, as the manifest tells it.
fn id(image: &str) -> String {
    let manifest: Value = serde_json::from_str(&skopeo(&["inspect", "--raw", image])).unwrap();
    manifest["config"]["digest"].as_str().unwrap().to_owned()
}

/// A root with the samples in it, loaded from an archive of one kind; the id of the image; what `save` makes of it.
fn samples_home() -> (Home, String, String) {
    let home = Home::new();
    let file = home.file("made.tar", &DockerArchive::new("samples:1", &samples::layers()).bytes());
    home.ok(&["load", "-i", &file]);
    let saved = text(&home.dir.path().join("saved.tar")).to_owned();
    home.ok(&["save", "-o", &saved, "samples:1"]);
    let id = home.ok(&["images", "-q", "--no-trunc"]).trim().to_owned();
    (home, id, saved)
}

#[test]
fn skopeo_reads_what_is_saved_in_both_of_its_forms() {
    if lacks("skopeo", "skopeo-reads") {
        return;
    }
    let (home, wanted, saved) = samples_home();
    for form in ["docker-archive", "oci-archive"] {
        assert_eq!(id(&format!("{form}:{saved}")), wanted, "{form}");
        let copied = directory(&home, form);
        // It reads every layer, and verifies it.
        copy(&format!("{form}:{saved}"), &format!("dir:{}", text(&copied)));
    }
}

#[test]
fn skopeo_finds_each_of_several_images_by_its_name() {
    if lacks("skopeo", "skopeo-names") {
        return;
    }
    let (home, wanted, _) = samples_home();
    let other = home.import("registry.example:5000/other", &samples::everything());
    let saved = text(&home.dir.path().join("both.tar")).to_owned();
    home.ok(&["save", "-o", &saved, "samples:1", "registry.example:5000/other"]);
    assert_eq!(id(&format!("docker-archive:{saved}:samples:1")), wanted);
    assert_eq!(id(&format!("docker-archive:{saved}:registry.example:5000/other:latest")), other);
    // In an OCI layout a tag stands for the whole name.
    assert_eq!(id(&format!("oci-archive:{saved}:1")), wanted);
}

#[test]
fn what_skopeo_writes_is_loaded_as_the_same_image() {
    if lacks("skopeo", "skopeo-writes") {
        return;
    }
    let (home, wanted, saved) = samples_home();
    let source = format!("oci-archive:{saved}");
    let place = |name: &str| text(&home.dir.path().join(name)).to_owned();
    copy(&source, &format!("docker-archive:{}:samples:1", place("docker.tar")));
    copy(&source, &format!("oci-archive:{}:samples:1", place("oci.tar")));
    let layout = directory(&home, "gzip");
    copy(&source, &format!("oci:{}:samples:1", text(&layout)));
    let smaller = directory(&home, "zstd");
    let to = format!("oci:{}:samples:1", text(&smaller));
    skopeo(&["copy", "--quiet", "--dest-compress", "--dest-compress-format", "zstd", &source, &to]);

    let archives = [place("docker.tar"), place("oci.tar"), packed(&layout), packed(&smaller)];
    for archive in archives {
        for driver in home.drivers() {
            let home = Home::new();
            home.ok(&["--storage-driver", &driver, "load", "-i", &archive]);
            assert_eq!(home.ok(&["images", "-q", "--no-trunc"]).trim(), wanted, "{archive}");
            let again = text(&home.dir.path().join("again.tar")).to_owned();
            home.ok(&["save", "-o", &again, "samples:1"]);
            assert!(
                std::fs::read(&again).unwrap() == std::fs::read(&saved).unwrap(),
                "{archive} on {driver}"
            );
            home.assert_consistent();
        }
    }
}

/// The second driver makes its layers from what the first one holds, not from the archive.
#[test]
fn every_driver_has_the_same_tree_of_what_skopeo_wrote() {
    if lacks("skopeo", "skopeo-trees") {
        return;
    }
    let (home, _, saved) = samples_home();
    let layout = directory(&home, "layout");
    copy(&format!("oci-archive:{saved}"), &format!("oci:{}:samples:1", text(&layout)));
    let direct = Home::new();
    direct.ok(&["--storage-driver", "vfs", "load", "-i", &packed(&layout)]);
    home.ok(&["--storage-driver", "vfs", "create", "samples:1", "true"]);
    super::assert_same(&tree(&home), &tree(&direct), mica_conformance::tree::Times::OfFiles);
}
