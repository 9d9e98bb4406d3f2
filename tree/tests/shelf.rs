//! The directories of layers appear whole and vanish at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use mica_core::{Error, LayerId, Result};
use mica_tree::Shelf;

fn entries(root: &Path) -> usize {
    ["layers", "staging", "removing"].iter().map(|part| fs::read_dir(root.join(part)).unwrap().count()).sum()
}

fn id(name: &str) -> LayerId {
    name.parse().unwrap()
}

fn create(shelf: &Shelf, name: &str, content: &str) -> Result<()> {
    shelf.create(&id(name), |dir| {
        fs::write(dir.join("file"), content).unwrap();
        Ok(())
    })
}

#[test]
fn a_layer_appears_when_it_is_filled() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let a = id("a");
    let unseen =
        || shelf.list().unwrap().is_empty() && matches!(shelf.layer(&a), Err(Error::NotFound { .. }));
    shelf
        .create(&a, |dir| {
            fs::write(dir.join("file"), "x").unwrap();
            assert!(unseen());
            Ok(())
        })
        .unwrap();
    assert_eq!(shelf.list().unwrap(), std::slice::from_ref(&a));
    assert_eq!(fs::read(shelf.layer(&a).unwrap().join("file")).unwrap(), b"x");
    shelf.remove(&a).unwrap();
    assert!(unseen());
    assert_eq!(entries(root.path()), 0);
    shelf.remove(&a).unwrap();
}

#[test]
fn a_layer_that_cannot_be_filled_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let failed = shelf.create(&id("a"), |dir| {
        fs::write(dir.join("file"), "x").unwrap();
        Err(Error::driver("fill", "no"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "fill: no");
    assert_eq!(entries(root.path()), 0);
}

#[test]
fn the_second_layer_of_an_id_is_refused_and_the_first_stays() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(root.path()).unwrap();
    let late = shelf.create(&id("a"), |_| create(&shelf, "a", "first"));
    assert!(matches!(late, Err(Error::AlreadyExists { .. })), "{late:?}");
    let again = create(&shelf, "a", "third");
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    assert_eq!(fs::read(shelf.path(&id("a")).join("file")).unwrap(), b"first");
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

#[test]
fn the_directory_of_the_layers_may_have_another_name() {
    let root = tempfile::tempdir().unwrap();
    let shelf = Shelf::open_at(root.path(), "diff").unwrap();
    create(&shelf, "a", "x").unwrap();
    assert_eq!(fs::read(root.path().join("diff/a/file")).unwrap(), b"x");
    assert_eq!(shelf.list().unwrap(), [id("a")]);
    shelf.remove(&id("a")).unwrap();
    assert_eq!(fs::read_dir(root.path().join("diff")).unwrap().count(), 0);
}
