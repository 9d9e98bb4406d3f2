//! What the reader takes, and what it refuses and why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::File;
use std::io::{BufReader, Seek, Write};

use common::{END, archive, block, entry, extended, file, members, padded, record};
use mica_archive::reader::Reader;
use mica_archive::{Entry, Error, Kind, Result, Segment, Time};

/// The one-line reason for which an archive made of these parts is refused.
fn refusal(parts: &[&[u8]]) -> String {
    members(&parts.concat()).expect_err("the archive was accepted").to_string()
}

#[test]
fn every_kind_of_member_comes_back_as_written() {
    let mut everything = entry("etc/shadow", Kind::File { size: 5, sparse: None });
    everything.mode = 0o4640;
    everything.uid = u32::MAX - 1;
    everything.gid = 0o10_000_000;
    everything.mtime = Time { seconds: -2, nanoseconds: 1 };
    everything.xattrs = vec![
        (b"user.binary".to_vec(), b"\0\n=\xff".to_vec()),
        (b"security.capability".to_vec(), vec![7; 300]),
        (b"user.empty".to_vec(), Vec::new()),
    ];
    let nothing = Vec::new;
    let written = [
        (everything, b"hello".to_vec()),
        (entry("dir/", Kind::Directory), nothing()),
        (entry("link", Kind::Symlink(vec![b'x'; 3000])), nothing()),
        (entry("hard", Kind::Hardlink(b"etc/shadow".to_vec())), nothing()),
        (entry("tty", Kind::CharDevice(5, 1_048_575)), nothing()),
        (entry("disk", Kind::BlockDevice(4095, 0)), nothing()),
        (entry("pipe", Kind::Fifo), nothing()),
        file(&"long/".repeat(60), b"a name of 300 bytes"),
        file("empty", b""),
    ];
    assert_eq!(members(&archive(&written)).unwrap(), written);
}

#[test]
fn names_around_every_limit_come_back() {
    for length in [1, 99, 100, 101, 155, 156, 157, 255, 256, 257, 300, 5000] {
        let plain = "n".repeat(length);
        let nested: String = "0123456789/".chars().cycle().take(length).collect();
        for path in [plain, nested] {
            let written = [file(&path, b"x")];
            assert_eq!(members(&archive(&written)).unwrap(), written, "{path}");
        }
    }
}

#[test]
fn names_that_are_not_utf_8_come_back() {
    for length in [1, 100, 101, 400] {
        let mut written = file("", b"x");
        written.0.path = vec![0xff; length];
        assert_eq!(members(&archive(&[written.clone()])).unwrap(), [written]);
    }
}

#[test]
fn a_tarmageddon_size_is_the_pax_one_and_hides_no_member() {
    // CVE-2025-62518: a reader that goes on after 0 bytes takes the content for members.
    let hidden = archive(&[file("hidden", b"")]);
    let size = hidden.len().to_string();
    let outer = [
        extended(b'x', &record("size", size.as_bytes())),
        block(b'0', b"outer", 0, |_| {}).to_vec(),
        hidden.clone(),
        END.to_vec(),
    ];
    let found = members(&outer.concat()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.path, b"outer");
    assert_eq!(found[0].1, hidden);
}

#[test]
fn a_pax_size_says_nothing_about_the_extended_headers_between() {
    let parts = [
        extended(b'x', &record("size", b"3")),
        extended(b'L', b"long\0"),
        block(b'0', b"short", 1000, |_| {}).to_vec(),
        padded(b"abc"),
        END.to_vec(),
    ];
    let found = members(&parts.concat()).unwrap();
    assert_eq!((&found[0].0.path[..], &found[0].1[..]), (&b"long"[..], &b"abc"[..]));
}

#[test]
fn members_that_can_have_no_content_have_none_whatever_their_size() {
    for kind in b"123456" {
        let parts = [&block(*kind, b"a", 100, |_| {})[..], &block(b'0', b"b", 0, |_| {}), &END];
        assert_eq!(members(&parts.concat()).unwrap().len(), 2, "{}", kind.escape_ascii());
    }
}

#[test]
fn a_bad_checksum_is_refused_with_both_sums() {
    let mut header = block(b'0', b"a", 0, |_| {});
    header[0] = b'b';
    let reason = refusal(&[&header, &END]);
    assert!(reason.starts_with("tar header, byte 0: checksum is "), "{reason}");
}

#[test]
fn a_checksum_of_signed_bytes_is_taken() {
    let mut header = block(b'0', b"\xff\xff", 0, |_| {});
    let sum: i64 = header.iter().map(|&byte| i64::from(byte.cast_signed())).sum::<i64>()
        - header[148..156].iter().map(|&byte| i64::from(byte)).sum::<i64>()
        + 8 * 32;
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    assert_eq!(members(&[&header[..], &END].concat()).unwrap()[0].0.path, b"\xff\xff");
}

#[test]
fn what_is_no_tar_is_refused() {
    let reason = refusal(&[&[b'x'; 1024]]);
    assert!(reason.contains("this is not a tar header"), "{reason}");
    assert_eq!(refusal(&[]), "tar archive, byte 0: it is empty");
}

#[test]
fn sizes_out_of_range_are_refused() {
    let sized = |size: &'static [u8; 12]| block(b'0', b"a", 0, |block| block[124..136].copy_from_slice(size));
    for (size, reason) in [
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "size is -1"),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", "size does not fit in 64 bits"),
        (b"0000000009\0\0", "size is '0000000009', not an octal number"),
    ] {
        assert!(refusal(&[&sized(size), &END]).contains(reason), "{reason}");
    }
    // In range, but then the archive has to have the bytes.
    assert!(refusal(&[&sized(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), &END]).contains("cut off"));
}

#[test]
fn a_long_name_of_gigabytes_is_refused_before_it_is_read() {
    for kind in b"xgLK" {
        let error = members(&block(*kind, b"bomb", 6 << 30, |_| {})).unwrap_err();
        assert!(matches!(error, Error::Limit { found, limit: 1_048_576, .. } if found == 6 << 30), "{error}");
    }
}

#[test]
fn two_headers_that_say_the_same_thing_are_refused() {
    for kind in b"xLK" {
        let twice = extended(*kind, &record("path", b"a"));
        let reason = refusal(&[&twice, &twice, &block(b'0', b"a", 0, |_| {}), &END]);
        assert!(reason.contains("for one member"), "{reason}");
    }
}

#[test]
fn an_extended_header_that_nothing_follows_is_refused() {
    let reason = refusal(&[&extended(b'x', &record("path", b"a")), &END]);
    assert!(reason.contains("extended header without a member after it"), "{reason}");
}

#[test]
fn a_nul_in_a_pax_path_is_refused() {
    let reason = refusal(&[&extended(b'x', &record("path", b"a\0b")), &block(b'0', b"a", 0, |_| {}), &END]);
    assert!(reason.ends_with("path 'a\\x00b' holds a NUL"), "{reason}");
}

#[test]
fn an_unknown_type_is_refused() {
    assert!(refusal(&[&block(b'Q', b"a", 0, |_| {}), &END]).contains("member of unknown type 'Q'"));
}

#[test]
fn a_global_header_needs_no_member_and_sets_defaults() {
    let comment = extended(b'g', &record("comment", b"commit 0123"));
    assert_eq!(members(&[&comment[..], &END].concat()).unwrap(), []);

    let defaults = [record("uid", b"7"), record("mtime", b"1.5")].concat();
    let parts = [
        extended(b'g', &defaults),
        block(b'0', b"a", 0, |_| {}).to_vec(),
        extended(b'x', &record("uid", b"8")),
        block(b'0', b"b", 0, |_| {}).to_vec(),
        END.to_vec(),
    ];
    let found = members(&parts.concat()).unwrap();
    let mtime = Time { seconds: 1, nanoseconds: 500_000_000 };
    assert_eq!((found[0].0.uid, found[0].0.mtime), (7, mtime));
    assert_eq!((found[1].0.uid, found[1].0.mtime), (8, mtime));
}

#[test]
fn a_prefix_that_go_left_in_a_gnu_header_counts() {
    let header = block(b'0', b"name", 0, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..354].copy_from_slice(b"some/path");
    });
    assert_eq!(members(&[&header[..], &END].concat()).unwrap()[0].0.path, b"some/path/name");
}

#[test]
fn times_in_a_gnu_header_are_no_prefix() {
    let header = block(b'0', b"name", 0, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..356].copy_from_slice(b"14524566200");
    });
    assert_eq!(members(&[&header[..], &END].concat()).unwrap()[0].0.path, b"name");
}

#[test]
fn a_v7_name_with_a_slash_is_a_directory() {
    let header = block(0, b"dir/", 0, |block| block[257..265].fill(0));
    assert_eq!(members(&[&header[..], &END].concat()).unwrap()[0].0.kind, Kind::Directory);
}

#[test]
fn the_end_is_two_blocks_of_zeros() {
    let member = archive(&[file("a", b"abc")]);
    let body = &member[..member.len() - 1024];
    assert!(refusal(&[body]).contains("cut off between two members"));
    assert!(refusal(&[body, &[0; 512]]).contains("cut off between its two blocks of zeros"));
    assert!(refusal(&[body, &[0; 512], &member]).contains("a single block of zeros"));
    assert_eq!(members(&[body, &END, b"anything", &member].concat()).unwrap().len(), 1);
}

#[test]
fn a_missing_end_is_taken_on_request() {
    let member = archive(&[file("a", b"abc")]);
    for cut in [512, 1024] {
        let body = &member[..member.len() - cut];
        let mut reader = Reader::new(body).allow_missing_end();
        assert!(reader.next().unwrap().is_some());
        assert!(reader.next().unwrap().is_none());
    }
}

#[test]
fn cut_off_at_any_byte_is_an_error() {
    let mut xattr = file("with-attributes", &[1; 700]);
    xattr.0.xattrs.push((b"user.x".to_vec(), vec![2; 600]));
    let whole = archive(&[file("a", &[3; 1000]), xattr, file(&"p/".repeat(200), b"x")]);
    for length in 0..whole.len() {
        assert!(members(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
    assert!(members(&whole).is_ok());
}

type OnDisk = Reader<BufReader<File>>;

/// The members, or the reason without the place: one who seeks does not see where exactly the archive ends.
fn found_by(next: fn(&mut OnDisk) -> Result<Option<Entry>>, archive: &[u8]) -> Result<Vec<Entry>, String> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    file.rewind().unwrap();
    let mut reader = Reader::new(BufReader::with_capacity(600, file));
    let found: Result<_> = std::iter::from_fn(|| next(&mut reader).transpose()).collect();
    found.map_err(|error| match error {
        Error::Corrupt { reason, .. } => reason,
        error => error.to_string(),
    })
}

#[test]
fn one_who_seeks_finds_what_one_who_reads_finds() {
    let whole = archive(&[file("a", &[3; 5000]), file("empty", b""), file("b", &[4; 512]), file("c", b"x")]);
    let longer_than_any_file = block(b'0', b"a", 0, |block| {
        block[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    });
    let cut = (0..=whole.len()).map(|length| whole[..length].to_vec());
    for archive in cut.chain([[&longer_than_any_file[..], &END].concat()]) {
        let found = found_by(OnDisk::seek_next, &archive);
        assert_eq!(found, found_by(OnDisk::next, &archive), "{} of {} bytes", archive.len(), whole.len());
    }
}

#[test]
fn a_sparse_member_of_the_first_gnu_kind_may_go_on_in_more_blocks() {
    let segment = |number: u64| format!("{:011o}\0{:011o}\0", number * 1024, 1);
    let header = block(b'S', b"sparse", 30, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        for at in 0..4 {
            block[386 + at * 24..410 + at * 24].copy_from_slice(segment(at as u64).as_bytes());
        }
        block[482] = 1;
        block[483..494].copy_from_slice(format!("{:011o}", 30 * 1024).as_bytes());
    });
    let mut extension = [[0; 512]; 2];
    for at in 0..26 {
        let (which, place) = (at / 21, at % 21);
        extension[which][place * 24..place * 24 + 24].copy_from_slice(segment(at as u64 + 4).as_bytes());
    }
    extension[0][504] = 1;
    let found =
        members(&[&header[..], &extension[0], &extension[1], &padded(&[7; 30]), &END].concat()).unwrap();
    let sparse = (0..30).map(|number| Segment { offset: number * 1024, length: 1 }).collect();
    assert_eq!(found[0].0.kind, Kind::File { size: 30 * 1024, sparse: Some(sparse) });
    assert_eq!(found[0].1, [7; 30]);
}

#[test]
fn a_sparse_map_that_disagrees_with_the_size_is_refused() {
    let records = [record("GNU.sparse.size", b"100"), record("GNU.sparse.map", b"0,5")].concat();
    let reason =
        refusal(&[&extended(b'x', &records), &block(b'0', b"a", 6, |_| {}), &padded(b"abcdef"), &END]);
    assert!(reason.contains("sparse map speaks of 5 bytes of data, the archive holds 6"), "{reason}");
}

#[test]
fn a_sparse_map_in_the_content_may_not_outgrow_it() {
    let records = [record("GNU.sparse.major", b"1"), record("GNU.sparse.realsize", b"9")].concat();
    let header = block(b'0', b"a", 512, |_| {});
    let mut map = b"500\n".to_vec();
    map.extend_from_slice(&b"0\n".repeat(254));
    let reason = refusal(&[&extended(b'x', &records), &header, &map, &map, &END]);
    assert!(reason.contains("it goes on after the member's end"), "{reason}");
}
