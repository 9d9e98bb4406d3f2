//! Full pools: writes fail, nothing that was synced is lost, and room heals them. And pools that grow before that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::devices::{Disk, MIB, message, pool_of, try_message};
use common::{Place, id, open};
use mica_core::{Committed, Error, Layer, LayerOptions, MountOptions, Writable};
use tempfile::TempDir;

const KEPT: usize = 4 << 20;

/// Bytes that no layer below gives room for by being equal, or by being zero.
fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 4096) as u8 ^ (at % 251) as u8 ^ seed).collect()
}

/// Writes so many MiB to a file and has them on disk.
fn fill(path: &Path, mib: usize) -> io::Result<()> {
    let mut file = File::create(path)?;
    for chunk in 0..mib {
        file.write_all(&noise(chunk as u8, 1 << 20))?;
    }
    file.sync_all()
}

fn base(place: &Place) -> Layer<Committed> {
    let layer = place.layer("base", None, |tree| fs::write(tree.join("kept"), noise(7, KEPT)).unwrap());
    place.store.sync([&layer]).unwrap();
    layer
}

fn keeps(place: &Place, layer: &Layer<Committed>) -> bool {
    let held = place.mount(place.store.read(layer, &MountOptions::default()).unwrap());
    let mut content = Vec::new();
    File::open(held.tree().path().join("kept")).unwrap().read_to_end(&mut content).unwrap();
    held.close().unwrap();
    content == noise(7, KEPT)
}

fn is_full(place: &Place) -> bool {
    let refused = place.store.create(id("another"), None, &LayerOptions::default());
    match refused {
        Err(Error::NoSpace { doing }) => doing.contains("the pool '") && !doing.contains('\n'),
        other => panic!("{other:?}"),
    }
}

fn total(place: &Place, what: &str) -> String {
    let rows = place.store.driver().status().unwrap();
    rows.into_iter().find(|(name, _)| name == what).unwrap().1
}

fn two_disks(data: u64) -> (TempDir, Disk, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disks = (Disk::new(dir.path(), "d", data), Disk::new(dir.path(), "m", 4 * MIB));
    (dir, disks.0, disks.1)
}

/// Fills the pool by a layer that had 1 MiB synced before, and returns that layer.
fn overflow(place: &Place, parent: &Layer<Committed>, mib: usize) -> Layer<Writable> {
    let layer = place.create("greedy", Some(parent));
    let held = place.write(&layer);
    let tree = held.tree().path();
    fill(&tree.join("synced"), 1).unwrap();
    assert!(fill(&tree.join("much"), mib).is_err(), "the pool takes more than it has");
    assert_eq!(fs::metadata(tree.join("synced")).unwrap().len(), MIB);
    assert!(held.close().is_err(), "nobody is told that writes are lost");
    layer
}

#[test]
fn a_full_pool_fails_writes_and_keeps_what_was_synced_until_it_is_enlarged() {
    let (_dir, data, metadata) = two_disks(64 * MIB);
    let options = [("data", data.name()), ("metadata", metadata.name()), ("base_size", "128M")];
    let place = Place::new(&options);
    let parent = base(&place);
    let greedy = overflow(&place, &parent, 80);
    assert!(is_full(&place));
    assert!(place.store.write(&greedy, &MountOptions::default()).is_err());
    assert!(keeps(&place, &parent));
    let greedy = match place.store.commit(greedy) {
        Err(Error::NoSpace { .. }) => Layer::<Writable>::recorded(id("greedy"), vec![id("base")]),
        other => panic!("{other:?}"),
    };

    data.resize(192 * MIB);
    assert_eq!(total(&place, "Data Total"), "192 MiB");
    // There is room now, but not for what was lost before.
    assert!(matches!(place.store.commit(greedy), Err(Error::Corrupt { .. })));
    place.store.remove(&id("greedy")).unwrap();
    let more = place.create("more", Some(&parent));
    place.edit(&more, |tree| fill(&tree.join("much"), 80).unwrap());
    place.store.commit(more).unwrap();
    assert!(keeps(&place, &parent));
}

#[test]
fn removing_a_layer_heals_a_full_pool() {
    let (_dir, data, metadata) = two_disks(64 * MIB);
    let options = [("data", data.name()), ("metadata", metadata.name()), ("base_size", "128M")];
    let place = Place::new(&options);
    let parent = base(&place);
    overflow(&place, &parent, 80);
    assert!(is_full(&place));
    place.store.remove(&id("greedy")).unwrap();
    let next = place.create("next", Some(&parent));
    place.edit(&next, |tree| fill(&tree.join("some"), 8).unwrap());
    place.store.commit(next).unwrap();
    assert!(keeps(&place, &parent));
}

#[test]
fn an_active_pool_uses_devices_that_were_enlarged() {
    let (_dir, data, metadata) = two_disks(64 * MIB);
    let place = Place::new(&[("data", data.name()), ("metadata", metadata.name())]);
    let layer = place.create("layer", None);
    let held = place.write(&layer);
    data.resize(128 * MIB);
    metadata.resize(8 * MIB);
    place.create("other", None);
    assert_eq!([total(&place, "Data Total"), total(&place, "Metadata Total")], ["128 MiB", "8 MiB"]);
    held.close().unwrap();
}

#[test]
fn files_grow_before_containers_fill_them() {
    let place = Place::new(&[("base_size", "256M")]);
    let layers = ["one", "two"].map(|name| place.create(name, None));
    let before = fs::metadata(place.dir.path().join("root/data")).unwrap().len();
    let held = layers.each_ref().map(|layer| place.write(layer));
    let after = fs::metadata(place.dir.path().join("root/data")).unwrap().len();
    assert!(before <= 256 * MIB && after >= 512 * MIB, "{before}, {after}");
    // Nothing of the driver runs meanwhile.
    for held in held {
        fill(&held.tree().path().join("much"), 70).unwrap();
        held.close().unwrap();
    }
    let [one, two] = layers.map(|layer| place.store.commit(layer));
    assert!(one.is_ok() && two.is_ok());
    let metadata = fs::metadata(place.dir.path().join("root/metadata")).unwrap();
    assert_eq!(metadata.blocks() * 512, metadata.len(), "metadata must not meet a full disk");
}

#[test]
fn files_grow_no_further_than_they_may_and_on_when_they_may() {
    let mut place = Place::new(&[("base_size", "128M"), ("file_size", "64M")]);
    let parent = base(&place);
    overflow(&place, &parent, 80);
    assert_eq!(total(&place, "Data Total"), "64 MiB");
    assert!(is_full(&place));
    place.store = open(place.dir.path(), &[("base_size", "128M"), ("file_size", "256M")]);
    let more = place.create("more", Some(&parent));
    place.edit(&more, |tree| fill(&tree.join("much"), 80).unwrap());
    assert_eq!(total(&place, "Data Total"), "256 MiB");
    assert!(keeps(&place, &parent));
}

#[test]
fn a_layer_needs_the_free_part_of_data_that_is_asked_for() {
    let (_dir, data, metadata) = two_disks(64 * MIB);
    let options = [("data", data.name()), ("metadata", metadata.name()), ("min_free", "50")];
    let mut place = Place::new(&options);
    let layer = place.create("layer", None);
    place.edit(&layer, |tree| fill(&tree.join("much"), 36).unwrap());
    let refused = place.store.create(id("next"), None, &LayerOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("blocks of data free, and 'min_free' keeps 50 %"), "{refused}");
    place.store = open(place.dir.path(), &[("min_free", "10")]);
    place.create("next", None);
}

#[test]
fn a_layer_needs_the_free_part_of_metadata_that_is_asked_for() {
    let (_dir, data, metadata) = two_disks(64 * MIB);
    let place = Place::new(&[("data", data.name()), ("metadata", metadata.name()), ("min_free", "80")]);
    let layer = place.create("layer", None);
    let held = place.write(&layer);
    // Each volume takes a block of it.
    let pool = pool_of(place.dir.path());
    let many: Vec<u32> = (1000..1120).collect();
    many.iter().for_each(|volume| message(&pool, &format!("create_thin {volume}")));
    let refused = place.store.create(id("next"), None, &LayerOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("blocks of metadata free, and 'min_free' keeps 80 %"), "{refused}");
    metadata.resize(16 * MIB);
    place.create("next", None);
    many.iter().for_each(|volume| message(&pool, &format!("delete {volume}")));
    held.close().unwrap();
}

#[test]
fn metadata_that_is_full_stops_everything_until_it_is_enlarged() {
    let dir = tempfile::tempdir().unwrap();
    let (data, metadata) = (Disk::new(dir.path(), "d", 64 * MIB), Disk::new(dir.path(), "m", 2 * MIB));
    let place = Place::new(&[("data", data.name()), ("metadata", metadata.name())]);
    let parent = base(&place);
    let (layer, other) = (place.create("layer", Some(&parent)), place.create("other", Some(&parent)));
    let held = place.write(&layer);
    let pool = pool_of(place.dir.path());
    let made = (1000..2000).take_while(|volume| try_message(&pool, &format!("create_thin {volume}"))).count();
    assert!(made < 512, "{made} volumes in 512 blocks");
    for refused in [
        place.store.create(id("next"), None, &LayerOptions::default()).unwrap_err(),
        place.store.remove(other.id()).unwrap_err(),
    ] {
        let text = refused.to_string();
        assert!(matches!(refused, Error::NoSpace { .. }) && text.contains("its metadata is full"), "{text}");
    }
    assert!(keeps(&place, &parent));

    metadata.resize(8 * MIB);
    place.create("next", Some(&parent));
    place.store.remove(other.id()).unwrap();
    held.close().unwrap();
    assert!(keeps(&place, &parent));
}

#[test]
fn the_blocks_of_a_removed_layer_come_back_to_the_disk_of_the_files() {
    let mut place = Place::new(&[]);
    let taken = |place: &Place| fs::metadata(place.dir.path().join("root/data")).unwrap().blocks() * 512;
    let empty = base(&place);
    let before = taken(&place);
    for (discard, comes_back) in [("true", true), ("false", false)] {
        place.store = open(place.dir.path(), &[("discard", discard)]);
        let layer = place.layer("layer", Some(&empty), |tree| fill(&tree.join("much"), 24).unwrap());
        assert!(taken(&place) > before + 20 * MIB);
        place.store.remove(layer.id()).unwrap();
        assert_eq!(taken(&place) < before + 8 * MIB, comes_back, "discard={discard}");
    }
    assert!(keeps(&place, &empty));
}

/// A small ext4, mounted. Dropping it unmounts it.
struct SmallDisk {
    _disk: Disk,
    dir: TempDir,
}

impl SmallDisk {
    fn new(below: &Path, size: u64) -> Self {
        let disk = Disk::new(below, "small", size);
        let dir = tempfile::tempdir().unwrap();
        let run = |program: &str, args: &[&str]| {
            assert!(Command::new(program).args(args).status().unwrap().success(), "{program}");
        };
        run("mkfs.ext4", &["-q", "-m", "0", disk.name()]);
        run("mount", &[disk.name(), dir.path().to_str().unwrap()]);
        Self { _disk: disk, dir }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_disk_below_the_files_fails_writes_and_no_more() {
    let below = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(below.path(), 96 * MIB);
    let place = Place::within(disk.dir.path(), &[("base_size", "128M"), ("min_free", "10")]);
    let parent = base(&place);
    let ballast = disk.dir.path().join("ballast");
    assert!(fill(&ballast, 96).is_err(), "the disk takes more than it has");
    let refused = place.store.create(id("next"), None, &LayerOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("make room on the disk of its files"), "{refused}");
    assert!(keeps(&place, &parent));
    fs::remove_file(&ballast).unwrap();
    let next = place.create("next", Some(&parent));
    place.edit(&next, |tree| fill(&tree.join("some"), 8).unwrap());
    assert_eq!(place.store.driver().check().unwrap(), [""; 0]);
    drop(place);
}

#[test]
fn an_xfs_layer_that_lost_writes_is_not_committed_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (data, metadata) = (Disk::new(dir.path(), "d", 256 * MIB), Disk::new(dir.path(), "m", 4 * MIB));
    let options = [("data", data.name()), ("metadata", metadata.name()), ("filesystem", "xfs")];
    let place = Place::new(&options);
    let parent = base(&place);
    let greedy = overflow(&place, &parent, 260);
    assert!(is_full(&place));
    assert!(matches!(place.store.commit(greedy), Err(Error::NoSpace { .. })));
    place.store.remove(&id("greedy")).unwrap();
    assert!(keeps(&place, &parent));
}
