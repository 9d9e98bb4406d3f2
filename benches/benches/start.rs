//! What a container's start costs inside one process.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use mica_core::mount::{Bind, Overlay, Upper};
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::Mounter;
use mica_runtime::{default_spec, seccomp};

fn filters(c: &mut Criterion) {
    let spec = default_spec(Path::new("/"), &["true".to_owned()]);
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    c.bench_function("seccomp/compile", |b| b.iter(|| seccomp::compile(&profile).unwrap()));
    c.bench_function("seccomp/cached", |b| b.iter(|| seccomp::cached(&profile, dir.path()).unwrap()));
}

/// Needs root.
fn mounts(c: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let at = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let mounter = Mounter::new(at("scratch"));
    let one = |spec| Mounts { specs: vec![spec], whiteouts: WhiteoutForm::Merged };
    let bind = one(MountSpec::Bind(Bind { source: at("0"), ..Bind::default() }));
    c.bench_function("mount/bind", |b| b.iter(|| mounter.open(&bind).unwrap()));
    for layers in [1, 10, 100] {
        let lowers = (0..layers).map(|number| at(&number.to_string())).collect();
        let upper = Some(Upper { dir: at("upper"), work: at("work") });
        let overlay = one(MountSpec::Overlay(Overlay { lowers, upper, ..Overlay::default() }));
        c.bench_function(&format!("mount/overlay of {layers}"), |b| {
            b.iter(|| mounter.open(&overlay).unwrap());
        });
    }
}

criterion_group!(benches, filters, mounts);
criterion_main!(benches);
