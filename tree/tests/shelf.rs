//! Directories on a shelf appear whole and vanish at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::ErrorKind;

use mica_tree::Shelf;

fn entries(root: &std::path::Path) -> usize {
    ["layers", "staging", "removing"].iter().map(|part| fs::read_dir(root.join(part)).unwrap().count()).sum()
}

#[test]
fn a_staged_directory_appears_when_it_is_published() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let staged = shelf.stage("a").unwrap();
    fs::write(staged.path().join("file"), "x").unwrap();
    assert!(shelf.list().unwrap().is_empty() && !shelf.path("a").exists());
    staged.publish().unwrap();
    assert_eq!(shelf.list().unwrap(), ["a"]);
    assert_eq!(fs::read(shelf.path("a").join("file")).unwrap(), b"x");
    assert!(shelf.remove("a").unwrap() && !shelf.remove("a").unwrap());
    assert_eq!(entries(root.path()), 0);
}

#[test]
fn a_staged_directory_that_is_dropped_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let staged = shelf.stage("a").unwrap();
    fs::write(staged.path().join("file"), "x").unwrap();
    drop(staged);
    assert_eq!(entries(root.path()), 0);
}

#[test]
fn the_second_directory_of_a_name_is_refused_and_the_first_stays() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    for content in ["first", "second"] {
        let staged = shelf.stage("a").unwrap();
        fs::write(staged.path().join("file"), content).unwrap();
        let published = staged.publish().map_err(|e| e.kind());
        assert_eq!(published, if content == "first" { Ok(()) } else { Err(ErrorKind::AlreadyExists) });
    }
    assert_eq!(fs::read(shelf.path("a").join("file")).unwrap(), b"first");
    assert_eq!(entries(root.path()), 1);
}

#[test]
fn opening_deletes_what_a_crash_left_but_nothing_that_is_held() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let held = shelf.stage("held").unwrap();
    for left in ["staging/left.1.2", "removing/left.3.4"] {
        fs::create_dir_all(root.path().join(left).join("deep/er")).unwrap();
    }
    Shelf::open(root.path()).unwrap();
    assert!(held.path().exists());
    assert_eq!(entries(root.path()), 1);
}
