//! What happens to a layer tarball inside one process.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::File;
use std::hint::black_box;
use std::os::fd::OwnedFd;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mica_archive::apply::ApplyOptions;
use mica_archive::digest::Hasher;
use mica_archive::ingest::Expected;
use mica_archive::reader::Reader;
use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Time, diff, layer};
use mica_core::WhiteoutForm;

/// A layer of a thousand files of 8 KiB.
fn tarball() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for number in 0..1000 {
        let entry = Entry {
            path: format!("usr/share/{}/{number}", number / 50).into_bytes(),
            kind: Kind::File { size: 8192, sparse: None },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time { seconds: 1_600_000_000, nanoseconds: 0 },
            xattrs: Vec::new(),
        };
        writer.append(&entry, &mut &[number as u8; 8192][..]).unwrap();
    }
    writer.finish().unwrap()
}

fn bench(c: &mut Criterion) {
    let tarball = tarball();
    let mut group = c.benchmark_group("archive");
    group.throughput(Throughput::Bytes(tarball.len() as u64));
    group.bench_function("read", |b| {
        b.iter(|| {
            let mut reader = Reader::new(&*tarball);
            while let Some(entry) = reader.next().unwrap() {
                black_box(entry);
                std::io::copy(&mut reader.content(), &mut std::io::sink()).unwrap();
            }
        });
    });
    group.bench_function("hash", |b| {
        b.iter(|| {
            let mut hasher = Hasher::new();
            hasher.update(&tarball);
            hasher.finish()
        });
    });
    let apply = |dir: &tempfile::TempDir| {
        let root: OwnedFd = File::open(dir.path()).unwrap().into();
        let options = ApplyOptions::new(WhiteoutForm::Merged);
        layer::apply_and_record(&*tarball, root, options, &Expected::default(), Vec::new()).unwrap()
    };
    group.sample_size(20);
    group.bench_function("apply", |b| {
        let fresh = || tempfile::tempdir_in("/dev/shm").unwrap();
        b.iter_batched(
            fresh,
            |dir| {
                apply(&dir);
                dir
            },
            BatchSize::PerIteration,
        );
    });
    let applied = tempfile::tempdir_in("/dev/shm").unwrap();
    apply(&applied);
    group.bench_function("write the tree", |b| {
        b.iter(|| {
            let mut writer = Writer::new(std::io::sink());
            diff::write_tree(applied.path(), &|_| false, &mut writer).unwrap();
            writer.finish().unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
