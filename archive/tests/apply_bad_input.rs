//! What an extraction refuses, and what an error says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/mounted.rs"]
mod mounted;
#[path = "support/sandbox.rs"]
mod sandbox;

use std::io::{self, Read};

use mica_archive::apply::WhiteoutForm::{self, Merged};
use mica_archive::apply::{ApplyOptions, Extractor};
use mica_archive::{Error, Kind, Segment};
use mounted::Mounted;
use rustix::io::Errno;
use sandbox::{FORMS, Member, OVERLAY, Sandbox, apply_entries, dir, file, hardlink, member, open, symlink};

/// Refused in every form, for a reason with these words, and the tree is as it was.
#[track_caller]
fn refused(bad: Member, words: &str) {
    let bad = [bad];
    for form in FORMS {
        let sandbox = Sandbox::new();
        let error = apply_entries(&sandbox.root(), &bad, ApplyOptions::new(form)).expect_err(words);
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert!(sandbox.names().is_empty(), "{form:?} left {:?}", sandbox.names());
        sandbox.assert_unbroken();
    }
}

#[test]
fn a_nul_in_a_name_is_refused() {
    refused(file("a\0b", ""), "'a\\u{0}b'");
}

#[test]
fn a_name_of_256_bytes_is_refused() {
    refused(file([b'n'; 256], ""), "255 bytes");
    refused(dir([b'n'; 256]), "255 bytes");
    refused(file([&[b'n'; 256][..], b"/f"].concat(), ""), "255 bytes");
}

#[test]
fn attributes_of_overlayfs_are_refused() {
    // With these a layer would name other layers' files as its own, or hide them (CVE-2023-0386 and its kind).
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "trusted.overlay.origin",
        "trusted.overlay.overlay.opaque",
        "user.overlay.opaque",
        "user.overlay.whiteout",
    ] {
        refused(file("f", "x").xattr(name, b"y"), name);
        refused(dir("d").xattr(name, b"y"), name);
        refused(file(".wh.f", "").xattr(name, b"y"), name);
    }
}

#[test]
fn an_attribute_that_is_too_long_is_refused() {
    refused(file("f", "").xattr(&format!("user.{}", "n".repeat(251)), b""), "attribute");
    refused(file("f", "").xattr("user.v", &vec![0; (64 << 10) + 1]), "65536 bytes");
    refused(file("f", "").xattr("user.\0", b""), "attribute");
    refused(file("f", "").xattr("", b""), "attribute");
}

#[test]
fn an_owner_that_means_no_change_is_refused() {
    refused(file("f", "").owner(u32::MAX, 0), "4294967295:0");
    refused(dir("d").owner(0, u32::MAX), "0:4294967295");
}

#[test]
fn a_time_of_too_many_nanoseconds_is_refused() {
    refused(file("f", "").mtime(0, 1_000_000_000), "nanoseconds");
}

#[test]
fn a_device_out_of_range_is_refused() {
    refused(member("d", Kind::CharDevice(1 << 12, 0)), "4096:0");
    refused(member("d", Kind::BlockDevice(0, 1 << 20)), "0:1048576");
}

#[test]
fn a_symbolic_link_must_have_a_target_that_fits() {
    refused(symlink("l", ""), "target");
    refused(symlink("l", "a\0b"), "target");
    refused(symlink("l", vec![b'a'; 4096]), "target");
}

#[test]
fn a_hard_link_must_have_a_target() {
    for target in ["absent", "", "/", ".", "..", "a/b/c", "h", "/h", ".wh.f", "no/../../such"] {
        refused(hardlink("h", target), "hard link");
    }
}

#[test]
fn a_hard_link_to_a_directory_is_refused() {
    for form in FORMS {
        let error = Sandbox::new().apply(form, &[dir("d"), hardlink("h", "d")]).unwrap_err();
        assert!(error.to_string().contains("directory 'd'"), "{error}");
    }
}

#[test]
fn a_hard_link_to_a_later_member_is_refused() {
    for form in FORMS {
        assert!(Sandbox::new().apply(form, &[hardlink("h", "f"), file("f", "")]).is_err());
    }
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    for form in FORMS {
        let sandbox = Sandbox::new();
        sandbox.apply(form, &[file("d/f", "x"), symlink("l", "d"), hardlink("d/f", "l/f")]).unwrap();
        assert_eq!(sandbox.content("d/f").unwrap(), "x");
    }
}

#[test]
fn a_hard_link_in_place_of_what_holds_its_target_is_refused() {
    for form in FORMS {
        assert!(Sandbox::new().apply(form, &[file("d/f", "x"), hardlink("d", "d/f")]).is_err());
    }
}

#[test]
fn a_cycle_of_links_is_refused() {
    for form in FORMS {
        let links = [symlink("a", "b"), symlink("b", "a/x"), symlink("c", "c")];
        for bad in [file("a/f", ""), file("c/f", ""), hardlink("h", "a/f"), file("a/.wh.f", "")] {
            let sandbox = Sandbox::new();
            let error = sandbox.apply(form, &[&links[..], &[bad]].concat()).unwrap_err();
            assert!(error.to_string().contains("symbolic links"), "{error}");
            sandbox.assert_unbroken();
        }
    }
}

#[test]
fn links_that_wind_through_a_deep_tree_are_refused_before_they_cost_much() {
    let winding = "a/../".repeat(600);
    let members = [dir("a"), symlink("l", &winding), file("f", "")];
    for bad in [file("l/f", ""), hardlink("h", "l/f")] {
        let error = Sandbox::new().apply(Merged, &[&members[..], &[bad]].concat()).unwrap_err();
        assert!(error.to_string().contains("'..'"), "{error}");
    }
    // Each link leads 500 directories deeper than the one before.
    let deeper = "d/".repeat(500);
    let mut members = vec![symlink("l0", &deeper)];
    members.extend((1..10).map(|i| symlink(format!("l{i}"), format!("l{}/{deeper}", i - 1))));
    members.push(file("l9/f", ""));
    let sandbox = Sandbox::new();
    let error = sandbox.apply(Merged, &members).unwrap_err();
    assert!(error.to_string().contains("1024 directories deep"), "{error}");
}

#[test]
fn holes_out_of_order_or_out_of_bounds_are_refused() {
    let maps: [&[(u64, u64)]; 4] = [&[(10, 5), (5, 5)], &[(0, 6), (5, 5)], &[(0, 101)], &[(u64::MAX, 2)]];
    for map in maps {
        let sparse = map.iter().map(|&(offset, length)| Segment { offset, length }).collect();
        refused(member("s", Kind::File { size: 100, sparse: Some(sparse) }), "map of holes");
    }
    refused(member("s", Kind::File { size: u64::MAX, sparse: Some(Vec::new()) }), "bytes long");
}

#[test]
fn content_that_ends_early_is_an_error_that_names_the_member() {
    let mut short = file("a/short", "only this");
    short.entry.kind = Kind::File { size: 1 << 20, sparse: None };
    let error = apply_entries(&Sandbox::new().root(), &[short], ApplyOptions::new(Merged)).unwrap_err();
    assert!(error.to_string().contains("'a/short'"), "{error}");
}

#[test]
fn an_error_of_the_stream_is_handed_on_as_it_is() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(Error::Corrupt { what: "gzip block", offset: 7, reason: "bad".into() }))
        }
    }
    let sandbox = Sandbox::new();
    let mut extractor = Extractor::new(open(&sandbox.root()), ApplyOptions::new(Merged)).unwrap();
    let error = extractor.entry(&file("f", "x").entry, &mut Broken).unwrap_err();
    assert!(matches!(error, Error::Corrupt { offset: 7, .. }), "{error:?}");
}

#[test]
fn an_error_of_whoever_keeps_displaced_files_ends_the_run() {
    let sandbox = Sandbox::new();
    let fail = |_: &[u8]| Err(Error::Limit { what: "kept bytes", found: 2, limit: 1 });
    let options = ApplyOptions { displaced: Some(Box::new(fail)), ..ApplyOptions::new(OVERLAY) };
    let error = apply_entries(&sandbox.root(), &[file("f", "1"), file("f", "2")], options).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error:?}");
    assert_eq!(sandbox.content("f").unwrap(), "1", "told before it goes");
}

#[test]
fn after_an_error_nothing_more_is_extracted_and_nothing_is_finished() {
    let sandbox = Sandbox::new();
    let mut extractor = Extractor::new(open(&sandbox.root()), ApplyOptions::new(Merged)).unwrap();
    let mut apply = |member: Member| extractor.entry(&member.entry, &mut &member.content[..]);
    assert!(apply(hardlink("h", "absent")).is_err());
    assert!(apply(file("f", "")).is_err());
    assert!(extractor.finish().is_err());
    assert!(sandbox.names().is_empty());
}

#[test]
fn an_aufs_branch_holds_no_directory_that_looks_like_a_whiteout() {
    for layer in [vec![file(".wh.etc/f", "")], vec![symlink("l", ".wh.etc"), file("l/f", "")]] {
        assert!(Sandbox::new().apply(OVERLAY, &layer).is_ok());
        let error = Sandbox::new().apply(WhiteoutForm::Aufs, &layer).unwrap_err();
        assert!(error.to_string().contains("AUFS"), "{error}");
    }
}

#[test]
fn a_member_that_names_the_root_and_is_no_directory_is_left_out_with_a_warning() {
    for form in FORMS {
        let sandbox = Sandbox::new();
        let members = [file(".", "x"), symlink("/", "etc"), hardlink("..", "x"), member("a/..", Kind::Fifo)];
        let applied = apply_entries(&sandbox.root(), &members, ApplyOptions::new(form)).unwrap();
        assert_eq!(applied.warnings.len(), 4);
        assert!(sandbox.names().is_empty());
    }
}

#[test]
fn a_device_that_overlayfs_takes_for_a_whiteout_is_told() {
    let device = [member("c", Kind::CharDevice(0, 0))];
    assert_eq!(Sandbox::new().apply(OVERLAY, &device).unwrap().warnings.len(), 1);
    assert_eq!(Sandbox::new().apply(Merged, &device).unwrap().warnings.len(), 0);
}

#[track_caller]
fn no_space(error: Error, member: &str) {
    let text = error.to_string();
    let Error::Io { doing, source } = error else { panic!("{text}") };
    assert_eq!(source.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    assert!(doing.contains(member), "{doing}");
}

#[test]
fn a_full_disk_keeps_its_errno_and_names_the_member() {
    let small = Mounted::new("tmpfs", "size=1m");
    let error = sandbox::apply_with(
        &small.root(),
        &[file("small", "x"), file("d/big", vec![1; 2 << 20])],
        ApplyOptions::new(OVERLAY),
    );
    no_space(error.unwrap_err(), "'d/big'");
}

#[test]
fn a_disk_without_inodes_keeps_its_errno_and_names_the_member() {
    let small = Mounted::new("tmpfs", "size=1m,nr_inodes=5");
    let members: Vec<_> = (0..9).map(|i| file(format!("f{i}"), "")).collect();
    no_space(sandbox::apply_with(&small.root(), &members, ApplyOptions::new(OVERLAY)).unwrap_err(), "'f4'");
}

#[test]
fn a_name_in_an_error_is_readable() {
    let bad = file(b"\xc3\xa9/\xff\n\x1b[31m", "").xattr("user.overlay.x", b"");
    let error = apply_entries(&Sandbox::new().root(), &[bad], ApplyOptions::new(Merged)).unwrap_err();
    assert!(error.to_string().contains("'\u{e9}/\\xff\\n\\u{1b}[31m'"), "{error}");
    assert!(!error.to_string().as_bytes().contains(&0x1b));
}
