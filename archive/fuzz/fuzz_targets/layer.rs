//! Any bytes are decompressed and extracted, or refused; nothing beside the tree changes, and what was taken is
//! reproduced.

#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd;

use libfuzzer_sys::fuzz_target;
use mica_archive::apply::{ApplyOptions, UnsupportedXattrs, WhiteoutForm};
use mica_archive::ingest::Expected;
use mica_archive::{layer, split};
use mica_archive_fuzz::sealed;

fuzz_target!(|bytes: &[u8]| {
    let place = tempfile::tempdir().expect("a directory");
    let victim = place.path().join("victim");
    fs::create_dir(&victim).expect("a directory");
    fs::write(victim.join("hello"), "hello world").expect("a file");
    let tree = place.path().join("tree");
    fs::create_dir(&tree).expect("a directory");
    let root = File::open(&tree).expect("the tree");

    let mut options = ApplyOptions::new(WhiteoutForm::Merged);
    options.xattrs = UnsupportedXattrs::Warn;
    let expected = Expected { max_size: Some(8 << 20), ..Expected::default() };
    let record = tempfile::tempfile().expect("a file");
    let fd = root.try_clone().expect("a descriptor").into();
    if let Ok((ingested, _, record)) =
        layer::apply_and_record(&sealed(bytes)[..], fd, options, &expected, record)
    {
        split::assemble(&record, root.as_fd(), &ingested.diff_id, std::io::sink()).expect("the same archive");
    }
    assert_eq!(fs::read_dir(place.path()).expect("the directory").count(), 2);
    assert_eq!(fs::read_dir(&victim).expect("the victim").count(), 1);
    assert_eq!(fs::read(victim.join("hello")).expect("the victim"), b"hello world");
});
