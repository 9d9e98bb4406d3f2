//! What holds for any archive, checked on random ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use common::{END, archive, block, entry, extended, file, members, padded, record};
use mica_archive::apply::{ApplyOptions, WhiteoutForm};
use mica_archive::compress::Decoder;
use mica_archive::ingest::Expected;
use mica_archive::reader::Reader;
use mica_archive::{Entry, Kind, Time, layer, split};
use proptest::collection::vec;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(1_u8..=255, 1..120),
        "[a-z/]{1,300}".prop_map(String::into_bytes),
        "[a-zé/]{90,110}".prop_map(String::into_bytes),
    ]
}

fn kind() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    let plain = |kind| (kind, Vec::new());
    prop_oneof![
        vec(any::<u8>(), 0..2000)
            .prop_map(|content| (Kind::File { size: content.len() as u64, sparse: None }, content)),
        name().prop_map(move |target| plain(Kind::Symlink(target))),
        name().prop_map(move |target| plain(Kind::Hardlink(target))),
        (0_u32..4096, 0_u32..1 << 20).prop_map(move |(major, minor)| plain(Kind::CharDevice(major, minor))),
        (0_u32..4096, 0_u32..1 << 20).prop_map(move |(major, minor)| plain(Kind::BlockDevice(major, minor))),
        Just(plain(Kind::Fifo)),
        Just(plain(Kind::Directory)),
    ]
}

fn time() -> impl Strategy<Value = Time> {
    let nanoseconds = prop_oneof![Just(0), 0_u32..1_000_000_000];
    (-(1_i64 << 40)..1 << 40, nanoseconds).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

fn member() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let numbers = (0..=0o7777_u32, 0..u32::MAX, 0..u32::MAX);
    let xattrs = proptest::collection::btree_map("user\\.[a-z]{1,20}", vec(any::<u8>(), 0..300), 0..3);
    (name(), kind(), numbers, time(), xattrs).prop_map(
        |(mut path, (kind, content), numbers, mtime, xattrs)| {
            if kind == Kind::Directory && !path.ends_with(b"/") {
                path.push(b'/');
            }
            let (mode, uid, gid) = numbers;
            let xattrs = xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
            (Entry { path, kind, mode, uid, gid, mtime, xattrs }, content)
        },
    )
}

/// Members of every dialect, as a base for damage.
fn odd_archive() -> Vec<u8> {
    let sparse = [record("GNU.sparse.major", b"1"), record("GNU.sparse.realsize", b"100")].concat();
    let attributes = [
        record("LIBARCHIVE.xattr.user.y%3D", b"AAEC"),
        record("SCHILY.acl.access", b"user::rwx,user:lisa:r--:7,group::r-x,mask::r-x,other::---"),
    ];
    [
        extended(b'g', &record("comment", b"of all")),
        extended(b'x', &[record("path", b"renamed"), record("SCHILY.xattr.user.x", b"\0\n")].concat()),
        block(b'0', b"file", 5, |_| {}).to_vec(),
        padded(b"hello"),
        extended(b'L', &[b'l'; 200]),
        extended(b'K', &[b'k'; 200]),
        block(b'2', b"link", 0, |block| block[257..265].copy_from_slice(b"ustar  \0")).to_vec(),
        extended(b'x', &sparse),
        block(b'0', b"sparse", 517, |_| {}).to_vec(),
        padded(b"2\n0\n2\n50\n3\n"),
        padded(b"dataa"),
        extended(b'x', &[record("GNU.sparse.size", b"9"), record("GNU.sparse.map", b"0,2,5,1")].concat()),
        block(b'0', b"sparse", 3, |_| {}).to_vec(),
        padded(b"abc"),
        extended(b'x', &attributes.concat()),
        block(b'5', b"dir/", 0, |_| {}).to_vec(),
        END.to_vec(),
    ]
    .concat()
}

/// Reads everything and gives up at the first error; that it returns is what counts.
fn read(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    while let Ok(Some(_)) = reader.next() {
        let _ = io::copy(&mut reader.content().take(1000), &mut io::sink());
    }
}

/// Makes the header that a position lies in right again, so that damage gets past the checksum.
fn reseal(bytes: &mut [u8], at: usize) {
    let start = at / 512 * 512;
    if let Some(header) = bytes.get_mut(start..start + 512) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_writer_makes_the_reader_reads(written in vec(member(), 0..8)) {
        prop_assert_eq!(members(&archive(&written)).unwrap(), written);
    }

    #[test]
    fn the_writer_is_deterministic(written in vec(member(), 0..4)) {
        prop_assert_eq!(archive(&written), archive(&written));
    }

    #[test]
    fn an_archive_that_is_cut_off_is_an_error(written in vec(member(), 1..4), at in any::<prop::sample::Index>()) {
        let whole = archive(&written);
        prop_assert!(members(&whole[..at.index(whole.len())]).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_hang(bytes in vec(any::<u8>(), 0..3000)) {
        read(&bytes);
    }

    #[test]
    fn no_damage_makes_the_reader_panic_or_hang(
        damage in vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = odd_archive();
        for (at, byte, fix) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if fix {
                reseal(&mut bytes, at);
            }
        }
        read(&bytes);
        read(&bytes[..end.index(bytes.len())]);
    }

    #[test]
    fn no_damage_makes_a_decoder_panic_or_hang(
        which in 0_usize..4,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        use std::io::Write;
        let content = odd_archive();
        let mut bytes = Vec::new();
        match which {
            0 => flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::fast()).write_all(&content).unwrap(),
            1 => bytes = zstd::encode_all(&content[..], 1).unwrap(),
            2 => bzip2::write::BzEncoder::new(&mut bytes, bzip2::Compression::fast()).write_all(&content).unwrap(),
            _ => {
                let options = lzma_rust2::XzOptions::with_preset(0);
                let mut encoder = lzma_rust2::XzWriter::new(&mut bytes, options).unwrap();
                encoder.write_all(&content).unwrap();
                encoder.finish().unwrap();
            }
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(decoder) = Decoder::new(&bytes[..]) {
            let _ = io::copy(&mut decoder.take(1 << 20), &mut io::sink());
        }
    }
}

/// A member among few names, so that members meet: replace, hide, link and contain each other.
fn meeting() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let path =
        prop_oneof!["[abf](/[ab]){0,2}", "\\./[ab]//[ab]", "[ab]/\\.\\./[ab]", "([ab]/)?\\.wh\\.[abf]"];
    let opaque = "([ab]/)?\\.wh\\.\\.wh\\.\\.opq";
    let plain = |path: String, kind| (entry(&path, kind), Vec::new());
    prop_oneof![
        8 => (path.clone(), vec(any::<u8>(), 0..600)).prop_map(|(path, content)| file(&path, &content)),
        1 => opaque.prop_map(|path| file(&path, b"")),
        2 => "[ab](/[ab])?".prop_map(move |path| plain(path, Kind::Directory)),
        2 => ("[ab](/[ab])?", "[ab]|/[ab]/[ab]|\\.\\./[ab]")
            .prop_map(move |(path, target)| plain(path, Kind::Symlink(target.into_bytes()))),
        1 => path.prop_map(move |path| plain(path, Kind::Hardlink(b"f".to_vec()))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Extraction may refuse a layer; one that it takes is reproduced.
    #[test]
    fn what_is_taken_is_reproduced(
        members in vec(meeting(), 1..14),
        form in prop_oneof![
            Just(WhiteoutForm::Merged),
            Just(WhiteoutForm::Aufs),
            Just(WhiteoutForm::Overlay { user_xattr: false }),
        ],
    ) {
        let linked = [file("f", b"linked")];
        let archive = archive(&[&linked[..], &members].concat());
        let tree = tempfile::tempdir().unwrap();
        let root = File::open(tree.path()).unwrap();
        let options = ApplyOptions::new(form);
        let file = tempfile::tempfile().unwrap();
        let fd = OwnedFd::from(root.try_clone().unwrap());
        let taken = layer::apply_and_record(&archive[..], fd, options, &Expected::default(), file);
        if let Ok((ingested, _, split)) = taken {
            let mut out = Vec::new();
            split::assemble(&split, root.as_fd(), &ingested.diff_id, &mut out).unwrap();
            prop_assert_eq!(out, archive);
        }
    }
}
