//! Every compression that layers come in, whole, in pieces, and broken.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{self, BufReader, Read, Write};

use mica_archive::compress::{Compression, Decoder};
use mica_archive::{Error, Result};

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

type Encode = fn(&[u8]) -> Vec<u8>;

const FORMATS: [(Compression, Encode); 5] = [
    (Compression::None, <[u8]>::to_vec),
    (Compression::Gzip, gzip),
    (Compression::Zstd, zstd),
    (Compression::Xz, xz),
    (Compression::Bzip2, bzip2),
];

fn decoded(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    Decoder::new(bytes)?.read_to_end(&mut content).map_err(Error::io("decode"))?;
    Ok(content)
}

/// A source that has one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = into.len().min(1);
        self.0.read(&mut into[..length])
    }
}

#[test]
fn every_format_is_told_by_its_first_bytes() {
    for (compression, encode) in FORMATS {
        let bytes = encode(b"some content, some content");
        assert_eq!(Decoder::new(&bytes[..]).unwrap().compression(), compression);
        assert_eq!(decoded(&bytes).unwrap(), b"some content, some content", "{compression:?}");
    }
}

#[test]
fn a_source_that_trickles_makes_no_difference() {
    for (compression, encode) in FORMATS {
        let bytes = encode(b"some content, some content");
        let mut decoder = Decoder::new(BufReader::with_capacity(1, Trickle(&bytes))).unwrap();
        let mut content = Vec::new();
        decoder.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"some content, some content", "{compression:?}");
    }
}

#[test]
fn several_streams_in_a_row_are_one() {
    for (compression, encode) in FORMATS {
        let bytes = [encode(b"one, "), encode(b""), encode(b"two")].concat();
        assert_eq!(decoded(&bytes).unwrap(), b"one, two", "{compression:?}");
    }
}

#[test]
fn skippable_zstd_frames_are_skipped_wherever_they_stand() {
    let skippable = b"\x5a\x2a\x4d\x18\x04\0\0\0skip";
    let bytes = [skippable, &zstd(b"one, ")[..], skippable, &zstd(b"two"), skippable].concat();
    assert_eq!(decoded(&bytes).unwrap(), b"one, two");
}

#[test]
fn cut_off_at_any_byte_is_an_error() {
    let content: Vec<u8> = (0..3000_u32).flat_map(|number| (number * number).to_le_bytes()).collect();
    for (compression, encode) in FORMATS.into_iter().skip(1) {
        let bytes = encode(&content);
        for length in (10..bytes.len()).step_by(bytes.len() / 300 + 1).chain([bytes.len() - 1]) {
            let error = decoded(&bytes[..length]).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{compression:?} {length}: {error}");
        }
    }
}

#[test]
fn garbage_after_the_magic_is_an_error_that_names_the_format() {
    for (start, name) in
        [(&b"\x1f\x8b"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh9", "bzip2")]
    {
        let error = decoded(&[start, &[0xa5; 100]].concat()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name} stream, byte 0")), "{error}");
    }
}

#[test]
fn garbage_after_the_stream_is_an_error() {
    // What is not decompressed would not be hashed either.
    for (compression, encode) in FORMATS.into_iter().skip(1) {
        let bytes = [&encode(b"content")[..], b"garbage, garbage"].concat();
        assert!(decoded(&bytes).is_err(), "{compression:?}");
    }
}

#[test]
fn a_flipped_bit_does_not_pass() {
    let content = b"content that is long enough to be compressed, compressed, compressed".repeat(10);
    for (compression, encode) in FORMATS.into_iter().skip(1) {
        if compression == Compression::Zstd {
            // A zstd frame need not have a checksum, and the encoder's default is to write none.
            continue;
        }
        let mut bytes = encode(&content);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        assert!(decoded(&bytes).is_err(), "{compression:?}");
    }
}

#[test]
fn a_zstd_window_over_128_mib_is_refused() {
    // A frame header with a window descriptor of 2^28 bytes, then one empty last block.
    let window = |log: u8| [&b"\x28\xb5\x2f\xfd\x00"[..], &[(log - 10) << 3], b"\x01\0\0"].concat();
    assert_eq!(decoded(&window(27)).unwrap(), b"");
    let error = decoded(&window(28)).unwrap_err().to_string();
    assert!(error.ends_with("its window is larger than 128 MiB"), "{error}");
}

#[test]
fn an_xz_window_over_128_mib_is_refused() {
    let window = |size: u32| {
        let mut options = lzma_rust2::XzOptions::with_preset(0);
        options.lzma_options.dict_size = size;
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        encoder.write_all(b"x").unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(decoded(&window(128 << 20)).unwrap(), b"x");
    let error = decoded(&window(256 << 20)).unwrap_err().to_string();
    assert!(error.ends_with("its window is larger than 128 MiB"), "{error}");
}

#[test]
fn an_error_of_the_source_comes_out_as_it_is() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    for (compression, encode) in FORMATS {
        let bytes = encode(&[7; 10_000]);
        let source = BufReader::new(bytes[..8].chain(Broken));
        let mut decoder = Decoder::new(source).unwrap();
        let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "{compression:?}");
    }
}
