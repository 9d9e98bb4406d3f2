//! A pool and records that are not of the same moment, or not of the same root: what can be mended is, and the rest is told in
//! a line and left as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::devices::{Disk, MIB, Mapped};
use common::{Place, id, observed, open, try_open};
use mica_core::{Begun, Committed, Error, Layer, LayerOptions, MountOptions, Store};

fn file(tree: &Path) {
    fs::write(tree.join("file"), "content").unwrap();
}

fn read(place: &Place, layer: &Layer<Committed>) -> mica_core::Result<String> {
    let held = place.mount(place.store.read(layer, &MountOptions::default())?);
    let content = fs::read_to_string(held.tree().path().join("file")).unwrap();
    held.close()?;
    Ok(content)
}

/// Fails unless this is damage, told in one line with these words.
fn damaged<T: std::fmt::Debug>(result: mica_core::Result<T>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n') && words.iter().all(|word| text.contains(word)), "{text}");
}

fn record(place: &Place, layer: &str) -> std::path::PathBuf {
    place.dir.path().join(format!("root/layers/{layer}.layer"))
}

fn record_with(place: &Place, layer: &str, name: &str, value: u64) {
    let path = record(place, layer);
    let mut content: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    content[name] = value.into();
    fs::write(&path, content.to_string()).unwrap();
}

/// Closes the driver, does something, and opens it again. Another root is open in between, since a place has one.
fn meanwhile(place: &mut Place, work: impl FnOnce(&Place)) -> mica_core::Result<()> {
    let elsewhere = tempfile::tempdir().unwrap();
    place.store = Store::new(
        (mica_devmapper::DRIVER.open)(elsewhere.path(), &Default::default()).unwrap(),
        &elsewhere.path().join("uses"),
    )
    .unwrap();
    work(place);
    place.store = try_open(place.dir.path(), &[])?;
    Ok(())
}

#[test]
fn a_pool_that_is_older_than_a_layer_is_refused_and_left_alone() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let metadata = place.dir.path().join("root/metadata");
    let old = fs::read(&metadata).unwrap();
    let later = place.layer("later", Some(&base), file);
    let new = fs::read(&metadata).unwrap();
    let opened = meanwhile(&mut place, |_| fs::write(&metadata, &old).unwrap());
    damaged(opened, &["'later'", "older", "--transaction-id 3"]);
    assert_eq!(fs::read(&metadata).unwrap(), old);
    observed::rests(place.dir.path());
    meanwhile(&mut place, |_| fs::write(&metadata, &new).unwrap()).unwrap();
    assert_eq!(read(&place, &later).unwrap(), "content");
}

/// As `thin_repair` writes it when it is told which transaction it is to be at.
fn repaired(metadata: &Path, transaction: u64) {
    let aside = metadata.with_extension("aside");
    File::create(&aside).unwrap().set_len(fs::metadata(metadata).unwrap().len()).unwrap();
    let mut repair = Command::new("thin_repair");
    repair.args(["--transaction-id", &transaction.to_string(), "-i"]).arg(metadata).arg("-o").arg(&aside);
    assert!(repair.status().unwrap().success());
    fs::rename(&aside, metadata).unwrap();
}

#[test]
fn what_thin_repair_wrote_goes_on_without_what_it_lacks() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let metadata = place.dir.path().join("root/metadata");
    let old = fs::read(&metadata).unwrap();
    let lost = place.layer("lost", Some(&base), file);
    meanwhile(&mut place, |_| {
        fs::write(&metadata, &old).unwrap();
        repaired(&metadata, 3);
    })
    .unwrap();
    damaged(read(&place, &lost), &["'lost'"]);
    place.store.remove(lost.id()).unwrap();
    place.layer("new", Some(&base), file);
    assert_eq!(observed::volumes(place.dir.path()), [1, 2, 4].into());
}

#[test]
fn a_root_that_is_older_than_its_pool_is_refused_and_nothing_is_deleted() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let later = place.layer("later", Some(&base), file);
    let aside = place.dir.path().join("aside");
    let opened = meanwhile(&mut place, |place| fs::rename(record(place, "later"), &aside).unwrap());
    damaged(opened, &["older", "another root", "--transaction-id 2"]);
    assert_eq!(observed::volumes(place.dir.path()), [1, 2, 3].into());
    meanwhile(&mut place, |place| fs::rename(&aside, record(place, "later")).unwrap()).unwrap();
    assert_eq!(read(&place, &later).unwrap(), "content");
    meanwhile(&mut place, |place| {
        fs::remove_file(record(place, "later")).unwrap();
        repaired(&place.dir.path().join("root/metadata"), 2);
    })
    .unwrap();
    assert_eq!(observed::volumes(place.dir.path()), [1, 2].into());
}

#[test]
fn removing_the_newest_layer_is_no_mismatch() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    place.layer("later", Some(&base), file);
    place.store.remove(&id("later")).unwrap();
    meanwhile(&mut place, |_| {}).unwrap();
    place.store.remove(&id("base")).unwrap();
    meanwhile(&mut place, |_| {}).unwrap();
    place.layer("base", None, file);
}

#[test]
fn a_volume_of_which_no_record_tells_is_deleted() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    place.layer("lost", Some(&base), file);
    let last = place.layer("last", Some(&base), file);
    meanwhile(&mut place, |place| fs::remove_file(record(place, "lost")).unwrap()).unwrap();
    assert_eq!(observed::volumes(place.dir.path()), [1, 2, 4].into());
    assert_eq!(read(&place, &last).unwrap(), "content");
}

#[test]
fn a_layer_whose_volume_the_pool_lacks_is_named_and_can_be_removed() {
    let place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let lost = place.layer("lost", Some(&base), file);
    record_with(&place, "lost", "volume", 77);
    damaged(read(&place, &lost), &["'lost'", "77"]);
    damaged(place.store.usage(&lost), &["'lost'"]);
    let on_it = place.store.create(id("child"), Some(&lost), &LayerOptions::default());
    damaged(on_it.map(|begun| matches!(begun, Begun::Fresh(_))), &["'lost'"]);
    assert_eq!(read(&place, &base).unwrap(), "content");
    place.store.remove(&id("lost")).unwrap();
    assert_eq!(place.store.driver().list().unwrap(), [id("base")]);
    assert_eq!(observed::recorded(place.dir.path(), "pending"), BTreeSet::new());
}

#[test]
fn a_damaged_record_is_told_for_its_layer_alone() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let torn = place.layer("torn", Some(&base), file);
    let whole = fs::read(record(&place, "torn")).unwrap();
    meanwhile(&mut place, |place| fs::write(record(place, "torn"), &whole[..10]).unwrap()).unwrap();
    damaged(read(&place, &torn), &["'torn'"]);
    assert_eq!(read(&place, &base).unwrap(), "content");
    meanwhile(&mut place, |place| fs::write(record(place, "torn"), &whole).unwrap()).unwrap();
    assert_eq!(read(&place, &torn).unwrap(), "content");
}

#[test]
fn metadata_that_were_emptied_or_cut_off_are_told_and_never_made_anew() {
    let mut place = Place::new(&[]);
    let base = place.layer("base", None, file);
    let metadata = place.dir.path().join("root/metadata");
    let whole = fs::read(&metadata).unwrap();
    for damage in [vec![0; whole.len()], whole[..5000].to_vec(), Vec::new()] {
        let opened = meanwhile(&mut place, |_| fs::write(&metadata, &damage).unwrap());
        damaged(opened, &["metadata"]);
        assert_eq!(fs::read(&metadata).unwrap(), damage);
        observed::rests(place.dir.path());
    }
    meanwhile(&mut place, |_| fs::write(&metadata, &whole).unwrap()).unwrap();
    assert_eq!(read(&place, &base).unwrap(), "content");
}

#[test]
fn what_the_pool_could_not_write_has_not_happened() {
    let disks = tempfile::tempdir().unwrap();
    let (data, below) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let whole = format!("{} 0", below.name());
    let metadata = Mapped::new("mica-test-metadata", 4 * MIB, "linear", &whole);
    let place = Place::new(&[("data", data.name()), ("metadata", metadata.node.to_str().unwrap())]);
    let base = place.layer("base", None, file);
    metadata.load(&[(4 * MIB, "flakey", &format!("{whole} 0 60 1 error_writes"))]);
    place.store.sync([&base]).unwrap_err();
    place.store.create(id("lost"), None, &LayerOptions::default()).unwrap_err();
    metadata.load(&[(4 * MIB, "linear", &whole)]);
    assert_eq!(place.store.driver().list().unwrap(), [id("base")]);
    place.store.sync([&base]).unwrap();
    place.layer("lost", Some(&base), file);
    assert_eq!(read(&place, &base).unwrap(), "content");
    assert_eq!(observed::recorded(place.dir.path(), "pending"), BTreeSet::new());
    drop(place);
}

#[test]
fn a_copy_of_a_root_is_refused_while_the_other_one_is_mounted() {
    let place = Place::new(&[]);
    let layer = place.create("layer", None);
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(place.dir.path().join("root"))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(copied.success());
    let held = place.write(&layer);
    let error = try_open(copy.path(), &[]).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    fs::write(held.tree().path().join("file"), "still written").unwrap();
    held.close().unwrap();
    open(copy.path(), &[]).remove(&id("layer")).unwrap();
    assert_eq!(place.store.driver().list().unwrap(), [id("layer")]);
    place.edit(&layer, |tree| assert!(tree.join("file").exists()));
}
