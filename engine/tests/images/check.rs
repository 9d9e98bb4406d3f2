//! `storage check` finds what does not agree, and mends it.

use std::fs;

use mica_archive::Digest;

use crate::archives::{DockerArchive, tar};
use crate::home::Home;
use crate::life::damage;

/// A root with an image of two layers, made by the plain driver, whose files are where a test finds them.
fn home() -> Home {
    let home = Home::new();
    let layers = [tar(&[("a", b"content")]), tar(&[("b", b"other")])];
    let file = home.file("a.tar", &DockerArchive::new("a:1", &layers).bytes());
    home.ok(&["--storage-driver", "vfs", "load", "-i", &file]);
    home
}

/// The check finds it, says so with exit status 1, mends it, and then all is well.
fn found_and_mended(home: &Home, flags: &[&str], what: &str) {
    let arguments = [&["storage", "check"], flags].concat();
    let answer = home.run(&arguments);
    assert!(answer.status == Some(1) && answer.out.contains(what), "{what}: {answer:?}");
    let again = home.run(&arguments);
    assert_eq!(again.out, answer.out, "a check changes nothing");
    let repaired = home.run(&[&arguments[..], &["--repair"]].concat());
    assert!(repaired.status == Some(0) && repaired.out.contains(what), "{what}: {repaired:?}");
    home.assert_consistent();
}

fn layer_dirs(home: &Home) -> Vec<std::path::PathBuf> {
    let dir = home.root().join("storage/vfs/layers");
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_layer_that_the_driver_lost_is_forgotten_with_its_image() {
    let home = home();
    for dir in layer_dirs(&home) {
        fs::remove_dir_all(dir).unwrap();
    }
    found_and_mended(&home, &[], "vfs has lost layer");
    home.assert_empty();
}

#[test]
fn content_that_changed_is_found_when_it_is_read() {
    let home = home();
    damage(&home.root().join("storage"), b"other", b"OTHER");
    assert_eq!(home.run(&["storage", "check"]).status, Some(0), "it is not read");
    found_and_mended(&home, &["--full"], "is damaged in vfs");
    let file = home.dir.path().join("a.tar");
    home.ok(&["load", "-i", file.to_str().unwrap()]);
    home.assert_consistent();
}

#[test]
fn a_layer_that_nothing_names_is_removed() {
    let home = home();
    let record = home.root().join("layers").join(&home.names("layers")[0]);
    let text = fs::read_to_string(record.join("layer.json")).unwrap();
    let id = text.split('"').find(|part| part.len() == 32).unwrap();
    // As if a record had been lost.
    fs::remove_dir_all(&record).unwrap();
    found_and_mended(&home, &[], &format!("nothing names layer {id} of vfs"));
}

#[test]
fn a_name_without_an_image_is_removed() {
    let home = home();
    fs::remove_file(home.root().join("images").join(&home.names("images")[0])).unwrap();
    found_and_mended(&home, &[], "the name a:1 means image");
    home.assert_empty();
}

#[test]
fn a_config_that_changed_is_refused_and_removed() {
    let home = home();
    let path = home.root().join("images").join(&home.names("images")[0]);
    fs::write(path, "{}").unwrap();
    assert!(home.refused(&["history", "a:1"]).contains("is damaged"));
    found_and_mended(&home, &[], &format!("its digest is {}", Digest::of(b"{}")));
    home.assert_empty();
}

#[test]
fn records_that_cannot_be_read_are_removed() {
    let home = home();
    for name in home.names("layers") {
        fs::write(home.root().join("layers").join(name).join("layer.json"), "{").unwrap();
    }
    fs::create_dir(home.root().join("layers/strange")).unwrap();
    fs::create_dir(home.root().join("tmp/strange")).unwrap();
    found_and_mended(&home, &[], "cannot be read");
    home.assert_empty();
}

#[test]
fn a_layer_that_no_image_needs_is_removed() {
    let home = home();
    fs::write(home.root().join("tags.json"), "{}").unwrap();
    fs::remove_file(home.root().join("images").join(&home.names("images")[0])).unwrap();
    found_and_mended(&home, &[], "no image needs layer");
    home.assert_empty();
}

#[test]
fn names_that_cannot_be_read_are_set_aside() {
    let home = home();
    fs::write(home.root().join("tags.json"), "{\"a").unwrap();
    assert!(home.refused(&["images"]).contains("tags.json' is damaged"));
    found_and_mended(&home, &[], "tags.json' is damaged");
    assert!(home.ok(&["images"]).contains("<none>"));
    assert_eq!(fs::read_to_string(home.root().join("tags.json.damaged")).unwrap(), "{\"a");
}

#[test]
fn an_image_that_is_damaged_is_told_and_the_others_are_listed_run_and_removed() {
    let home = home();
    let damaged = home.names("images").remove(0);
    home.import("good:1", &tar(&[("c", b"third")]));
    home.import("other:1", &tar(&[("d", b"fourth")]));
    fs::write(home.root().join("images").join(&damaged), "{}").unwrap();
    let listed = home.run(&["images", "--format", "{{.Repository}}"]);
    let mut names: Vec<&str> = listed.out.lines().collect();
    names.sort_unstable();
    assert_eq!((listed.status, names), (Some(0), vec!["good", "other"]));
    assert!(listed.err.starts_with("mica: warning: ") && listed.err.lines().count() == 1, "{listed:?}");
    assert!(listed.err.contains(&damaged) && listed.err.contains("storage check --repair"), "{listed:?}");
    home.ok(&["system", "df"]);
    home.ok(&["create", "--name", "c", "good:1", "/c"]);
    home.ok(&["rm", "c"]);
    home.ok(&["rmi", "other:1"]);
    let repaired = home.run(&["storage", "check", "--repair"]);
    assert!(repaired.status == Some(0) && repaired.out.contains(&damaged), "{repaired:?}");
    home.ok(&["rmi", "good:1"]);
    home.assert_empty();
}
