//! What a pool may be made on, and what is refused: in one line, and with nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use common::devices::{Disk, MIB, Mapped, message};
use common::observed::devices;
use common::{Place, id, open, try_open};
use mica_core::{Committed, Error, Layer, MountOptions, Store};
use tempfile::TempDir;

/// A directory with an empty root, for a driver that may not open.
fn place() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("root")).unwrap();
    dir
}

fn on<'a>(data: &'a Disk, metadata: &'a Disk) -> [(&'a str, &'a str); 2] {
    [("data", data.name()), ("metadata", metadata.name())]
}

/// Opens, or makes a first layer, where one of the two is to be refused for what the options name.
fn refused(dir: &Path, options: &[(&str, &str)]) -> String {
    let error = match try_open(dir, options) {
        Ok(store) => store.create(id("first"), None, &mica_core::LayerOptions::default()).unwrap_err(),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(matches!(error, Error::Options(_) | Error::Corrupt { .. } | Error::Unavailable { .. }), "{text}");
    assert!(!text.contains('\n'), "{text}");
    text
}

fn content(place: &Place, layer: &Layer<Committed>) -> String {
    let held = place.mount(place.store.read(layer, &MountOptions::default()).unwrap());
    let content = fs::read_to_string(held.tree().path().join("file")).unwrap();
    held.close().unwrap();
    content
}

fn hello(tree: &Path) {
    fs::write(tree.join("file"), "hello").unwrap();
}

fn recorded(layer: &str) -> Layer<Committed> {
    Layer::recorded(id(layer), Vec::new())
}

#[test]
fn a_pool_on_two_devices_is_found_again_by_whatever_name_they_have() {
    let disks = tempfile::tempdir().unwrap();
    let (data, metadata) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let mut place = Place::new(&on(&data, &metadata));
    let layer = place.layer("layer", None, hello);
    let other = disks.path().join("other");
    symlink(&data.node, &other).unwrap();
    place.store = open(place.dir.path(), &[("data", other.to_str().unwrap()), ("metadata", metadata.name())]);
    assert_eq!(content(&place, &layer), "hello");
    // The name that led to it last is remembered.
    place.store = open(place.dir.path(), &[]);
    assert_eq!(content(&place, &layer), "hello");
    let status = place.store.driver().status().unwrap();
    assert!(status.contains(&("Data Total".to_owned(), "128 MiB".to_owned())), "{status:?}");
    assert_eq!(devices(place.dir.path()), Default::default());
}

#[test]
fn devices_that_cannot_be_used_are_refused_and_left_as_they_are() {
    let (place, disks) = (place(), tempfile::tempdir().unwrap());
    let (data, metadata) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let (small, tiny) = (Disk::new(disks.path(), "s", MIB), Disk::new(disks.path(), "t", 32 * MIB));
    let (taken, full) = (Disk::new(disks.path(), "u", 128 * MIB), Disk::new(disks.path(), "f", 128 * MIB));
    let user = Mapped::new("mica-test-user", 128 * MIB, "linear", &format!("{} 0", taken.name()));
    // Where btrfs has its first mark, and ext4 and partitions have none.
    File::options().write(true).open(&full.node).unwrap().write_all_at(b"_BHRfS_M", (64 << 10) + 64).unwrap();
    let file = disks.path().join("d");
    for (data, metadata, why) in [
        (data.name(), small.name(), "needs 2 MiB"),
        (tiny.name(), metadata.name(), "needs 64 MiB"),
        (data.name(), "/dev/nothing", "'/dev/nothing' cannot be used for a pool: it is not there"),
        (file.to_str().unwrap(), metadata.name(), "not a block device"),
        (data.name(), data.name(), "one device"),
        (taken.name(), metadata.name(), "something else uses it"),
        (full.name(), metadata.name(), "holds something"),
    ] {
        let text = refused(place.path(), &[("data", data), ("metadata", metadata)]);
        assert!(text.contains(why), "{text}");
        assert!(!place.path().join("root/pool").exists());
    }
    drop(user);
    for untouched in ["d", "m"] {
        assert!(fs::read(disks.path().join(untouched)).unwrap().iter().all(|byte| *byte == 0));
    }
    assert_eq!(&fs::read(disks.path().join("f")).unwrap()[(64 << 10) + 64..][..8], b"_BHRfS_M");
}

#[test]
fn what_was_made_of_a_pool_that_cannot_be_finished_is_taken_away() {
    let disks = tempfile::tempdir().unwrap();
    let (data, metadata) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let devices_of_its_own: Vec<_> = on(&data, &metadata).into();
    for options in [Vec::new(), devices_of_its_own] {
        let place = place();
        let wrong: Vec<_> = options.iter().copied().chain([("mkfs_args", "-b 3")]).collect();
        let store = open(place.path(), &wrong);
        let failed = store.create(id("layer"), None, &Default::default()).unwrap_err().to_string();
        assert!(failed.contains("mkfs.ext4") && !failed.contains('\n'), "{failed}");
        assert_eq!(devices(place.path()), Default::default());
        for left in ["pool", "data", "metadata"] {
            assert!(!place.path().join("root").join(left).exists(), "{left}");
        }
        drop(store);
        open(place.path(), &options).create(id("layer"), None, &Default::default()).unwrap();
    }
}

/// A thin pool as an operator makes one, with blocks of 128 KiB.
fn pool_by_hand(name: &str, data: &Disk, metadata: &Disk, bytes: u64) -> Mapped {
    let arguments = format!("{} {} 256 0 1 skip_block_zeroing", metadata.name(), data.name());
    Mapped::new(name, bytes, "thin-pool", &arguments)
}

/// Those in a pool that is not active.
fn volumes(metadata: &Disk) -> Vec<u32> {
    let dump = Command::new("thin_dump").arg(&metadata.node).output().unwrap();
    let dump = String::from_utf8(dump.stdout).unwrap();
    let ids = dump.lines().filter_map(|line| line.trim().strip_prefix("<device dev_id=\""));
    ids.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_pool_of_somebody_is_used_and_neither_resized_nor_removed() {
    let disks = tempfile::tempdir().unwrap();
    let (data, metadata) = (Disk::new(disks.path(), "d", 256 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let mut pool = pool_by_hand("mica-test-pool", &data, &metadata, 128 * MIB);
    let table = pool.status().0;
    {
        let mut place = Place::new(&[("pool", pool.name())]);
        let layer = place.layer("layer", None, hello);
        assert_eq!(content(&place, &layer), "hello");
        let child = place.layer("child", Some(&layer), |_| ());
        assert_eq!(content(&place, &child), "hello");
        let status = place.store.driver().status().unwrap();
        assert!(status.contains(&("Block Size".to_owned(), "128 KiB".to_owned())), "{status:?}");

        let text = refused(self::place().path(), &[("pool", pool.name())]);
        assert!(text.contains("it holds volumes of somebody"), "{text}");

        // Given another name once, it is found by that.
        drop(pool);
        pool = pool_by_hand("mica-test-renamed", &data, &metadata, 128 * MIB);
        for options in [&[("pool", pool.name())][..], &[]] {
            place.store = open(place.dir.path(), options);
            assert_eq!(content(&place, &child), "hello");
        }
    }
    assert_eq!(pool.status().0, table);
    drop(pool);
    // That of the empty file system, which waits for the next layer.
    assert_eq!(volumes(&metadata), [1]);
}

#[test]
fn a_pool_that_is_not_ours_is_refused_and_left_as_it_is() {
    let (place, disks) = (place(), tempfile::tempdir().unwrap());
    let (data, metadata) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    assert!(refused(place.path(), &[("pool", "nothing")]).contains("there is no such device"));
    let linear = Mapped::new("mica-test-linear", MIB, "linear", &format!("{} 0", data.name()));
    assert!(refused(place.path(), &[("pool", linear.name())]).contains("no thin pool"));
    drop(linear);

    let pool = pool_by_hand("mica-test-pool", &data, &metadata, 128 * MIB);
    assert!(refused(place.path(), &[("pool", pool.name()), ("block_size", "64K")]).contains("128 KiB"));
    // It has no block yet, but it is somebody's.
    message(pool.name(), "create_thin 1");
    assert!(refused(place.path(), &[("pool", pool.name())]).contains("it holds volumes of somebody"));
    let (_, status) = pool.status();
    assert!(status.starts_with("0 ") && status.contains(" 0/1024 "), "{status}");
    drop(pool);
    assert_eq!(volumes(&metadata), [1]);
    assert!(!place.path().join("root/pool").exists());
}

#[test]
fn a_pool_that_was_replaced_is_refused_and_left_as_it_is() {
    let disks = tempfile::tempdir().unwrap();
    let disk = |name: &str, size| Disk::new(disks.path(), name, size);
    let [(data, metadata), (data2, metadata2)] =
        [("d", "m"), ("d2", "m2")].map(|(data, metadata)| (disk(data, 128 * MIB), disk(metadata, 4 * MIB)));
    let pool = pool_by_hand("mica-test-pool", &data, &metadata, 128 * MIB);
    let mut adopted = Place::new(&[("pool", pool.name())]);
    adopted.layer("layer", None, hello);
    // Another process looks after the pool was made anew.
    adopted.store = open(place().path(), &[]);
    drop(pool);
    let pool = pool_by_hand("mica-test-pool", &data2, &metadata2, 128 * MIB);
    let before = pool.status();
    let text = refused(adopted.dir.path(), &[]);
    assert!(text.contains("another pool"), "{text}");
    assert_eq!(pool.status(), before);
    drop(pool);
    let text = refused(adopted.dir.path(), &[]);
    assert!(text.contains("there is no pool 'mica-test-pool"), "{text}");
}

#[test]
fn devices_of_another_root_are_refused_and_left_as_they_are() {
    let disks = tempfile::tempdir().unwrap();
    let disk = |name: &str, size| Disk::new(disks.path(), name, size);
    let (data, metadata) = (disk("d", 128 * MIB), disk("m", 4 * MIB));
    let (data2, metadata2) = (disk("d2", 128 * MIB), disk("m2", 4 * MIB));
    let (one, two) = (Place::new(&on(&data, &metadata)), Place::new(&on(&data2, &metadata2)));
    let kept = (one.layer("layer", None, hello), two.layer("layer", None, hello));
    let text = refused(one.dir.path(), &on(&data2, &metadata2));
    assert!(text.contains("another pool"), "{text}");
    let text = refused(one.dir.path(), &[("data", data.name()), ("metadata", data2.name())]);
    assert!(text.contains("no sound metadata of a pool"), "{text}");
    let text = refused(one.dir.path(), &[("data", data.name()), ("metadata", "/dev/nothing")]);
    assert!(text.contains("the pool is on '/dev/nothing': it is not there"), "{text}");
    let text = refused(place().path(), &on(&data, &metadata));
    assert!(text.contains("holds something"), "{text}");
    data.resize(64 * MIB);
    let text = try_open(one.dir.path(), &[]).unwrap_err().to_string();
    assert!(text.contains("they may be smaller than they were"), "{text}");
    data.resize(128 * MIB);
    assert_eq!([content(&one, &kept.0), content(&two, &kept.1)], ["hello", "hello"]);
}

/// The directory in which [`dies_over_making_a_pool`] does so.
const DIR: &str = "MICA_DIES_IN";

#[test]
#[ignore = "it is a process that another test has killed"]
fn dies_over_making_a_pool() {
    if let Ok(dir) = std::env::var(DIR) {
        let store = open(Path::new(&dir), &[]);
        let _ = store.create(id("layer"), None, &Default::default());
    }
}

#[test]
fn a_pool_that_nobody_finished_gives_way_to_the_one_that_is_asked_for_next() {
    for point in ["devmapper.pool.recorded", "devmapper.pool.active", "devmapper.base.filled"] {
        let place = place();
        let died = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "dies_over_making_a_pool"])
            .env(DIR, place.path())
            .env(mica_core::failpoint::VARIABLE, point)
            .output()
            .unwrap();
        assert!(!died.status.success(), "{point} is nowhere");
        let before = devices(place.path());
        let store = open(place.path(), &[("base_size", "96M"), ("block_size", "128K")]);
        store.create(id("layer"), None, &Default::default()).unwrap();
        let status = store.driver().status().unwrap();
        assert!(status.contains(&("Block Size".to_owned(), "128 KiB".to_owned())), "{status:?}");
        assert_eq!(devices(place.path()), Default::default(), "of {before:?}");
    }
}

#[test]
fn what_is_fixed_with_the_pool_is_not_asked_for_in_vain() {
    let place = Place::new(&[]);
    place.layer("layer", None, hello);
    for (option, value) in [
        ("block_size", "128K"),
        ("filesystem", "xfs"),
        ("base_size", "32M"),
        ("pool", "somebodys"),
        ("data", "/dev/a"),
    ] {
        let metadata = (option == "data").then_some(("metadata", "/dev/b"));
        let options: Vec<_> = [(option, value)].into_iter().chain(metadata).collect();
        let text = refused(place.dir.path(), &options);
        assert!(text.contains(option) && (text.contains("fixed") || text.contains("only grow")), "{text}");
    }
}

#[test]
fn a_layer_is_not_smaller_than_its_parent() {
    let mut place = Place::new(&[]);
    let small = place.layer("small", None, hello);
    place.store = open(place.dir.path(), &[("base_size", "96M")]);
    let large = place.layer("large", Some(&small), |tree| {
        assert!(rustix::fs::statvfs(tree).unwrap().f_blocks > 70 * MIB / 4096);
    });
    place.store = open(place.dir.path(), &[("base_size", "64M")]);
    let failed = place.store.create(id("child"), Some(&large), &Default::default()).unwrap_err();
    assert!(
        failed.to_string().contains("'base_size' is 64 MiB, and the layer that 'child' stands on has 96 MiB"),
        "{failed}"
    );
    place.layer("sibling", Some(&small), |_| ());
    assert_eq!(place.store.driver().list().unwrap().len(), 3);
}

#[test]
fn a_container_that_asks_for_no_limit_gets_that_of_the_options() {
    let place = Place::new(&[("size", "4M"), ("inodes", "20"), ("filesystem", "xfs")]);
    let image = place.create("image", None);
    let held = place.mount(place.store.apply(&image, &MountOptions::default()).unwrap());
    fs::write(held.tree().path().join("file"), vec![1; 6 << 20]).unwrap();
    held.close().unwrap();
    let image = place.store.commit(image).unwrap();

    let container = place.create("container", Some(&image));
    place.edit(&container, |tree| fs::write(tree.join("first"), vec![1; 3 << 20]).unwrap());
    // What it has written counts when it is started again.
    place.edit(&container, |tree| {
        assert!(fs::write(tree.join("second"), vec![1; 3 << 20]).is_err());
        let many = (0..30).map(|number| File::create(tree.join(number.to_string())));
        assert!(many.into_iter().any(|made| made.is_err()));
    });
}

/// Has the kernel fail to write the metadata of an active pool, but for its first block, where it says so.
fn in_need_of_a_check(place: &Place, metadata: &Mapped, below: &Disk, bytes: u64) {
    let whole = format!("{} 0", below.name());
    let no_writes = format!("{} 8 0 60 1 error_writes", below.name());
    metadata.load(&[(4096, "linear", &whole), (bytes - 4096, "flakey", &no_writes)]);
    assert!(place.store.create(id("lost"), None, &Default::default()).is_err());
    metadata.load(&[(bytes, "linear", &whole)]);
}

fn check(store: &Store) -> String {
    store.driver().check().unwrap().join("; ")
}

#[test]
fn a_pool_that_needs_a_check_is_read_and_not_written() {
    let disks = tempfile::tempdir().unwrap();
    let (data, below) = (Disk::new(disks.path(), "d", 128 * MIB), Disk::new(disks.path(), "m", 4 * MIB));
    let metadata = Mapped::new("mica-test-metadata", 4 * MIB, "linear", &format!("{} 0", below.name()));
    let node = metadata.node.to_str().unwrap();
    let mut place = Place::new(&[("data", data.name()), ("metadata", node)]);
    let layer = place.layer("layer", None, hello);
    let container = place.create("container", Some(&layer));
    let held = place.mount(place.store.read(&layer, &MountOptions::default()).unwrap());
    in_need_of_a_check(&place, &metadata, &below, 4 * MIB);
    held.close().unwrap();
    assert_eq!(devices(place.dir.path()), Default::default());

    place.store = open(place.dir.path(), &[]);
    assert_eq!(content(&place, &layer), "hello");
    let told = check(&place.store);
    assert!(told.contains(&format!("thin_check --clear-needs-check-flag {node}")), "{told}");
    let refusals = [
        place.store.create(id("more"), None, &Default::default()).unwrap_err(),
        place.store.write(&container, &MountOptions::default()).unwrap_err(),
        place.store.remove(container.id()).unwrap_err(),
    ];
    for refusal in refusals {
        let text = refusal.to_string();
        assert!(matches!(refusal, Error::Corrupt { .. }) && text.contains("thin_check"), "{text}");
    }
    assert_eq!(place.store.driver().list().unwrap().len(), 2);

    let checked = Command::new("thin_check").args(["-q", "--clear-needs-check-flag", node]).status().unwrap();
    assert!(checked.success());
    assert_eq!(check(&place.store), "");
    place.edit(&container, |tree| fs::write(tree.join("file"), "again").unwrap());
    assert_eq!(content(&place, &recorded("layer")), "hello");
    drop(place);
}
