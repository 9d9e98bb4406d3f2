//! A failed mount leaves no descriptor open. Alone in its process, since others open some.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::PathBuf;

use mica_core::mount::{Bind, IdMap, IdRange, Overlay, Upper};
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Calls, Mounter, table};

#[test]
fn neither_failure_nor_success_leaves_a_descriptor_a_mount_or_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| -> PathBuf {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let lowers: Vec<PathBuf> = (0..20).map(|n| make(&format!("lower, {n}"))).collect();
    let upper = Some(Upper { dir: make("upper"), work: make("work") });
    let map = IdMap { uids: vec![IdRange { disk: 0, tree: 1000, count: 10 }], gids: Vec::new() };
    let good = Overlay { lowers: lowers.clone(), upper: upper.clone(), ..Overlay::default() };
    let mut gone = good.clone();
    gone.lowers.push(dir.path().join("gone"));
    let elsewhere = Upper { dir: make("upper"), work: "/proc".into() };
    let specs = [
        MountSpec::Overlay(Overlay { id_map: Some(map.clone()), ..good.clone() }),
        MountSpec::Overlay(Overlay { upper: Some(elsewhere), ..good.clone() }),
        MountSpec::Overlay(Overlay { id_map: Some(map), ..gone.clone() }),
        MountSpec::Overlay(good),
        MountSpec::Overlay(gone),
        MountSpec::Bind(Bind { source: dir.path().join("gone"), ..Bind::default() }),
    ];
    let scratch = make("scratch");
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    Calls::best();
    let before = open();
    for calls in [Calls::Classic, Calls::Trees, Calls::Strings, Calls::Descriptors] {
        let mounter = Mounter::new(&scratch).with_calls(calls.min(Calls::best()));
        for spec in &specs {
            let mounts = Mounts { specs: vec![spec.clone()], whiteouts: WhiteoutForm::Merged };
            drop(mounter.open(&mounts));
            assert_eq!(open(), before, "{calls:?} {spec:?}");
            assert!(table::below(dir.path()).unwrap().is_empty(), "{calls:?} {spec:?}");
            assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{calls:?} {spec:?}");
        }
    }
}
