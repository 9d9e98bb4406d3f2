//! A committed layer is never written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs;

use common::Place;
use mica_core::MountOptions;

/// xfs writes to what it is mounted on for reading alone, where it can.
#[test]
fn who_reads_it_has_a_device_that_takes_no_writes() {
    for kind in ["ext4", "xfs"] {
        let place = Place::new(&[("filesystem", kind)]);
        let base = place.layer("base", None, |tree| fs::write(tree.join("a"), "kept").unwrap());
        let before = place.store.usage(&base).unwrap();
        let read = place.mount(place.store.read(&base, &MountOptions::default()).unwrap());
        assert_eq!(fs::read_to_string(read.tree().path().join("a")).unwrap(), "kept");
        let told = place.store.layer_status(&base).unwrap();
        let device = told.iter().find(|(name, _)| name == "Device").map(|(_, device)| device);
        let device = device.and_then(|path| path.strip_prefix("/dev/")).unwrap();
        assert_eq!(fs::read_to_string(format!("/sys/block/{device}/ro")).unwrap(), "1\n", "{kind}");
        read.close().unwrap();
        assert_eq!(place.store.usage(&base).unwrap(), before, "{kind}");
        // Its child is written as ever.
        place.layer("child", Some(&base), |tree| fs::write(tree.join("a"), "changed").unwrap());
    }
}
