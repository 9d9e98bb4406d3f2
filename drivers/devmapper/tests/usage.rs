//! What a layer uses of the pool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::Place;
use mica_core::Layer;

const MIB: u64 = 1 << 20;
/// What a file system writes beside the data: its log, its tables.
const BESIDE: u64 = 2 * MIB;

fn write(tree: &Path, name: &str, mib: u64) {
    fs::write(tree.join(name), vec![1; (mib * MIB).try_into().unwrap()]).unwrap();
}

#[test]
fn usage_is_what_differs_from_the_parent_whoever_else_shares_it() {
    let place = Place::new(&[]);
    fn used<S>(place: &Place, layer: &Layer<S>) -> u64 {
        place.store.usage(layer).unwrap().bytes
    }
    let about = |bytes: u64, mib: u64| (mib * MIB..mib * MIB + BESIDE).contains(&bytes);
    let base = place.layer("base", None, |tree| write(tree, "a", 8));
    let alone = used(&place, &base);
    assert!(about(alone, 8), "8 MiB use {alone} bytes");

    let child = place.create("child", Some(&base));
    assert_eq!(used(&place, &child), 0, "nothing was written to it");
    place.edit(&child, |tree| {
        write(tree, "b", 4);
        // One byte takes a block, which was the parent's.
        let shared = OpenOptions::new().write(true).open(tree.join("a")).unwrap();
        shared.write_all_at(b"x", 4 * MIB).unwrap();
    });
    let held = place.write(&child);
    let mounted = used(&place, &child);
    assert!(about(mounted, 4), "4 MiB and a byte use {mounted} bytes while they are mounted");
    held.close().unwrap();
    let child = place.store.commit(child).unwrap();
    assert!(about(used(&place, &child), 4));
    assert_eq!(used(&place, &base), alone, "a child has blocks of its own, and shares the others");

    let before = used(&place, &child);
    let grandchild = place.layer("grandchild", Some(&child), |tree| {
        fs::remove_file(tree.join("a")).unwrap();
        write(tree, "c", 2);
    });
    assert_eq!(used(&place, &child), before);
    let last = used(&place, &grandchild);
    assert!(about(last, 2), "2 MiB use {last} bytes, with 8 MiB deleted");
}
