//! The pipeline that takes in a tarball: what it finds out, and that every failure ends all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{self, Read, Write};

use common::{archive, file};
use mica_archive::compress::Compression;
use mica_archive::ingest::{Expected, Ingested, ingest};
use mica_archive::{Digest, Error, Result};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// Larger than all the buffers together, and not compressible.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..4 << 20)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    archive(&[file("a", &noise), file("b", b"last")])
}

fn taken(source: impl Read + Send, expected: &Expected) -> Result<(Ingested, Vec<Vec<u8>>)> {
    let mut contents = Vec::new();
    let (ingested, ()) = ingest(source, (), expected, |_, content| {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(Error::io("read a member"))?;
        contents.push(bytes);
        Ok(())
    })?;
    Ok((ingested, contents))
}

#[test]
fn digests_and_sizes_are_those_of_the_blob_and_of_the_archive() {
    let archive = large();
    let zstd = zstd::encode_all(&archive[..], 1).unwrap();
    for (blob, compression) in
        [(archive.clone(), Compression::None), (gzip(&archive), Compression::Gzip), (zstd, Compression::Zstd)]
    {
        let (ingested, contents) = taken(&blob[..], &Expected::default()).unwrap();
        let expected = Ingested {
            blob: Digest::of(&blob),
            blob_size: blob.len() as u64,
            compression,
            diff_id: Digest::of(&archive),
            size: archive.len() as u64,
        };
        assert_eq!(ingested, expected);
        assert_eq!((contents.len(), contents[0].len(), &contents[1][..]), (2, 4 << 20, &b"last"[..]));
    }
}

#[test]
fn an_archive_of_any_size_is_taken_in_alike() {
    let noise = vec![7; 70_000];
    for length in (60_000..70_000).step_by(500).chain([0, 1]) {
        let archive = archive(&[file("a", &noise[..length]), file("b", b"last")]);
        let limited = |max_size| Expected { max_size: Some(max_size), ..Expected::default() };
        let (ingested, contents) = taken(&archive[..], &limited(archive.len() as u64)).unwrap();
        assert_eq!((ingested.size, ingested.blob_size), (archive.len() as u64, archive.len() as u64));
        assert_eq!((ingested.diff_id, ingested.blob), (Digest::of(&archive), Digest::of(&archive)));
        assert_eq!((contents[0].len(), &contents[1][..]), (length, &b"last"[..]));
        let error = taken(&archive[..], &limited(archive.len() as u64 - 1)).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

#[test]
fn a_wrong_digest_is_refused_with_both() {
    let archive = archive(&[file("a", b"abc")]);
    let wrong = Some(Digest::of(b"something else"));
    for (blob, diff_id, what) in
        [(wrong, None, "the blob's digest is sha256:"), (None, wrong, "the layer's DiffID is sha256:")]
    {
        let expected = Expected { blob, diff_id, max_size: None };
        let error = taken(&gzip(&archive)[..], &expected).unwrap_err().to_string();
        assert!(error.starts_with(what), "{error}");
        assert!(error.ends_with(&format!("expected {}", Digest::of(b"something else"))), "{error}");
    }
}

#[test]
fn an_archive_without_its_end_needs_a_digest() {
    let whole = archive(&[file("a", b"abc")]);
    let cut = &whole[..whole.len() - 1024];
    assert!(taken(cut, &Expected::default()).is_err());
    let expected = Expected { diff_id: Some(Digest::of(cut)), ..Expected::default() };
    assert!(taken(cut, &expected).is_ok());
}

#[test]
fn an_archive_over_the_limit_is_refused() {
    let archive = large();
    for blob in [archive.clone(), gzip(&archive)] {
        let limited = |max_size| Expected { max_size: Some(max_size), ..Expected::default() };
        assert!(taken(&blob[..], &limited(archive.len() as u64)).is_ok());
        let error = taken(&blob[..], &limited(archive.len() as u64 - 1)).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

#[test]
fn cve_2021_20291_an_error_in_the_blob_ends_all_threads() {
    let mut blob = gzip(&large());
    let middle = blob.len() / 2;
    blob[middle..middle + 100].fill(0);
    let error = taken(&blob[..], &Expected::default()).unwrap_err().to_string();
    assert!(error.contains(", byte "), "{error}");

    let cut = &blob[..middle / 2];
    let error = taken(cut, &Expected::default()).unwrap_err().to_string();
    assert!(error.starts_with("gzip stream, byte ") && error.ends_with("it was cut off"), "{error}");
}

#[test]
fn a_source_that_fails_says_why() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(104))
        }
    }
    let archive = large();
    for blob in [archive.clone(), gzip(&archive)] {
        let error = taken(blob[..2 << 20].chain(Broken), &Expected::default()).unwrap_err();
        let Error::Io { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(104));
    }
}

#[test]
fn a_consumer_that_fails_ends_even_an_endless_source() {
    let start = archive(&[file("a", b"abc")]);
    let endless = || io::Cursor::new(start.clone()).chain(io::repeat(0));
    let gzipped = flate2::read::GzEncoder::new(endless(), flate2::Compression::fast());
    let refuse = |_: &mica_archive::Entry, _: &mut dyn Read| {
        Err(Error::Refused { path: "a".to_owned(), reason: "enough".to_owned() })
    };
    for source in [Box::new(endless()) as Box<dyn Read + Send>, Box::new(gzipped)] {
        let error = ingest(source, (), &Expected::default(), refuse).unwrap_err();
        assert_eq!(error.to_string(), "archive member 'a' refused: enough");
    }
}

#[test]
fn an_endless_archive_ends_at_a_limit() {
    let endless = || io::Cursor::new(archive(&[file("a", b"abc")])).chain(io::repeat(0));
    for max_size in [Some(10 << 20), None] {
        let expected = Expected { max_size, ..Expected::default() };
        let error = taken(endless(), &expected).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

#[test]
fn a_thread_that_panics_is_an_error() {
    struct Panicking;
    impl Read for Panicking {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("as this test wants it");
        }
    }
    let archive = large();
    for blob in [archive.clone(), gzip(&archive)] {
        let error = taken(blob[..2 << 20].chain(Panicking), &Expected::default()).unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}

#[test]
fn nothing_at_all_is_no_archive() {
    for blob in [Vec::new(), gzip(b"")] {
        let error = taken(&blob[..], &Expected::default()).unwrap_err().to_string();
        assert_eq!(error, "tar archive, byte 0: it is empty");
    }
}

#[test]
fn content_that_is_not_read_is_hashed_all_the_same() {
    let archive = large();
    let (ingested, ()) = ingest(&gzip(&archive)[..], (), &Expected::default(), |_, _| Ok(())).unwrap();
    assert_eq!(ingested.diff_id, Digest::of(&archive));
}
