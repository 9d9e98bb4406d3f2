//! What an extracted tree looks like: order, metadata, every kind of member, links on the way.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/sandbox.rs"]
mod sandbox;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Mutex;

use mica_archive::apply::WhiteoutForm::Merged;
use mica_archive::apply::{ApplyOptions, Extractor, SelinuxLabels, UnsupportedXattrs};
use mica_archive::{Kind, Segment};
use sandbox::{FORMS, OVERLAY, Sandbox, apply_entries, apply_with, dir, file, hardlink, member, symlink};

fn meta(sandbox: &Sandbox, name: &str) -> fs::Metadata {
    fs::symlink_metadata(sandbox.path(name)).unwrap()
}

fn mtime(sandbox: &Sandbox, name: &str) -> (i64, i64) {
    let meta = meta(sandbox, name);
    (meta.mtime(), meta.mtime_nsec())
}

fn xattr(sandbox: &Sandbox, path: &str, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(sandbox.path(path), name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn every_kind_has_its_metadata() {
    let members = [
        dir("d").mode(0o1777).owner(1, 2).mtime(-5, 7),
        file("d/f", "x").mode(0o4755).owner(3, 4).mtime(1, 999_999_999),
        symlink("d/l", "f").owner(5, 6).mtime(2, 3),
        member("d/c", Kind::CharDevice(1, 3)).mode(0o666).owner(7, 8).mtime(4, 5),
        member("d/b", Kind::BlockDevice(7, 255)).mode(0o660).mtime(6, 7),
        member("d/p", Kind::Fifo).mode(0o2622).owner(9, 9).mtime(8, 9),
        file("d/w", "").mode(0o0).mtime(4_000_000_000, 1),
    ];
    for form in FORMS {
        let sandbox = Sandbox::new();
        sandbox.apply(form, &members).unwrap();
        for member in &members {
            let entry = &member.entry;
            let name = String::from_utf8(entry.path.clone()).unwrap();
            let meta = meta(&sandbox, &name);
            assert_eq!((meta.uid(), meta.gid()), (entry.uid, entry.gid), "{name}");
            assert_eq!(meta.mode() & 0o7777, entry.mode, "{name}");
            assert_eq!(
                (meta.mtime(), meta.mtime_nsec()),
                (entry.mtime.seconds, entry.mtime.nanoseconds.into()),
                "{name}"
            );
        }
        assert!(meta(&sandbox, "d/c").file_type().is_char_device());
        assert_eq!(meta(&sandbox, "d/c").rdev(), rustix::fs::makedev(1, 3));
        assert!(meta(&sandbox, "d/b").file_type().is_block_device());
        assert!(meta(&sandbox, "d/p").file_type().is_fifo());
    }
}

#[test]
fn times_beyond_what_the_file_system_knows_are_brought_to_its_bounds() {
    let sandbox = Sandbox::new();
    let members =
        [file("a", "").mtime(i64::MAX, 0), dir("b").mtime(i64::MIN, 1), symlink("c", "a").mtime(1 << 40, 0)];
    apply_entries(&sandbox.root(), &members, ApplyOptions::new(Merged)).unwrap();
    assert!(mtime(&sandbox, "a").0 > 2_000_000_000 && mtime(&sandbox, "b").0 < 0);
}

#[test]
fn the_umask_makes_no_difference() {
    // A thread of its own file system context, so that the umask is its own.
    let sandbox = Sandbox::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            #[expect(deprecated, reason = "unsound for shared descriptors, which these flags do not touch")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::FS).unwrap();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
            let fifo = member("i/p", Kind::Fifo).mode(0o666);
            sandbox.apply(Merged, &[file("i/f", "x").mode(0o644), dir("d"), fifo]).unwrap();
        });
    });
    let mode = |name| meta(&sandbox, name).mode() & 0o7777;
    assert_eq!([mode("i"), mode("i/f"), mode("d"), mode("i/p")], [0o755, 0o644, 0o755, 0o666]);
}

#[test]
fn a_read_only_directory_is_filled_and_keeps_its_time() {
    for form in FORMS {
        let sandbox = Sandbox::new();
        let members = [
            dir("d").mode(0o555).mtime(7, 8),
            file("d/a", ""),
            dir("d/e"),
            file("x", ""),
            file("d/b", ""),
            hardlink("d/c", "x"),
        ];
        sandbox.apply(form, &members).unwrap();
        assert_eq!(meta(&sandbox, "d").mode() & 0o777, 0o555);
        assert_eq!(mtime(&sandbox, "d"), (7, 8));
    }
}

#[test]
fn a_directory_listed_after_its_content_gets_its_metadata() {
    let sandbox = Sandbox::new();
    let applied = sandbox.apply(OVERLAY, &[file("d/e/f", ""), dir("d").mode(0o700).mtime(7, 8)]).unwrap();
    assert_eq!(meta(&sandbox, "d").mode() & 0o777, 0o700);
    assert_eq!(mtime(&sandbox, "d"), (7, 8));
    assert_eq!(meta(&sandbox, "d/e").mode() & 0o777, 0o755, "the archive does not list it");
    assert_eq!(applied.implied.into_iter().collect::<Vec<_>>(), [b"d/e"]);
}

#[test]
fn a_directory_of_a_lower_layer_that_is_not_listed_stays_as_it_is() {
    let sandbox = Sandbox::with(&[dir("tmp").mode(0o1777).mtime(7, 8)]);
    sandbox.apply(Merged, &[file("tmp/f", "")]).unwrap();
    assert_eq!(meta(&sandbox, "tmp").mode() & 0o7777, 0o1777);
    assert_eq!(mtime(&sandbox, "tmp"), (7, 8));
}

#[test]
fn a_directory_over_a_directory_keeps_content_and_takes_all_metadata() {
    let sandbox =
        Sandbox::with(&[dir("d").xattr("user.old", b"1").xattr("user.both", b"1"), file("d/f", "x")]);
    sandbox.apply(Merged, &[dir("d").mode(0o711).owner(1, 1).xattr("user.both", b"2")]).unwrap();
    assert_eq!(sandbox.content("d/f").unwrap(), "x");
    assert_eq!((meta(&sandbox, "d").mode() & 0o777, meta(&sandbox, "d").uid()), (0o711, 1));
    assert_eq!(xattr(&sandbox, "d", "user.both").unwrap(), b"2");
    assert_eq!(xattr(&sandbox, "d", "user.old"), None);
}

/// As umoci has it; Docker on overlay2 and containerd leave that member out.
#[test]
fn the_root_takes_all_metadata_from_its_own_member() {
    for (name, form) in ["./", "/", "."].into_iter().flat_map(|name| FORMS.map(|form| (name, form))) {
        let sandbox = Sandbox::with(&[dir("./").xattr("user.old", b"1").xattr("user.both", b"1")]);
        let root = dir(name).mode(0o1711).owner(1, 2).mtime(7, 8).xattr("user.both", b"2");
        sandbox.apply(form, &[root, file("./f", "")]).unwrap();
        let found = meta(&sandbox, "");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o1711, 1, 2), "{name} {form:?}");
        assert_eq!(mtime(&sandbox, ""), (7, 8), "{name} {form:?}");
        let attributes = ["user.both", "user.old"].map(|name| xattr(&sandbox, "", name));
        assert_eq!(attributes, [Some(b"2".to_vec()), None], "{name} {form:?}");
    }
}

#[test]
fn the_root_stays_as_it_is_where_the_archive_does_not_list_it() {
    for form in FORMS {
        let sandbox =
            Sandbox::with(&[dir("./").mode(0o1711).owner(1, 2).mtime(7, 8).xattr("user.old", b"1")]);
        sandbox.apply(form, &[file("f", ""), dir("d"), file(".wh.old", "")]).unwrap();
        let found = meta(&sandbox, "");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o1711, 1, 2), "{form:?}");
        assert_eq!(mtime(&sandbox, ""), (7, 8), "{form:?}");
        assert_eq!(xattr(&sandbox, "", "user.old").unwrap(), b"1", "{form:?}");
    }
}

#[test]
fn the_last_of_two_members_with_one_path_counts() {
    let kinds = [
        file("x", "old"),
        dir("x"),
        symlink("x", "y"),
        member("x", Kind::Fifo),
        member("x", Kind::CharDevice(1, 3)),
        hardlink("x", "y"),
    ];
    for form in FORMS {
        for first in &kinds {
            for second in &kinds {
                let sandbox = Sandbox::new();
                sandbox.apply(form, &[file("y", "y"), first.clone(), file("z", ""), second.clone()]).unwrap();
                let found = meta(&sandbox, "x");
                let expected = match second.entry.kind {
                    Kind::Directory => found.is_dir(),
                    Kind::Symlink(_) => found.is_symlink(),
                    Kind::Fifo => found.file_type().is_fifo(),
                    Kind::CharDevice(..) => found.file_type().is_char_device(),
                    Kind::Hardlink(_) => found.ino() == meta(&sandbox, "y").ino(),
                    _ => found.is_file() && sandbox.content("x").unwrap() == "old",
                };
                assert!(expected, "{:?} over {:?}", second.entry.kind, first.entry.kind);
                assert_eq!(sandbox.content("y").unwrap(), "y", "nobody wrote through a link");
            }
        }
    }
}

#[test]
fn a_file_replaces_a_directory_with_all_below_it() {
    let sandbox = Sandbox::with(&[
        file("d/a/b/c", ""),
        symlink("d/out", "../../victim"),
        dir("d/e").mode(0o0),
        file("k", ""),
    ]);
    sandbox.apply(Merged, &[file("d", "x")]).unwrap();
    sandbox.assert_unbroken();
    assert_eq!(sandbox.names(), ["d", "k"]);
}

#[test]
fn replacing_a_file_leaves_its_other_names_alone() {
    let sandbox = Sandbox::with(&[file("a", "old"), hardlink("b", "a")]);
    sandbox.apply(Merged, &[file("a", "new")]).unwrap();
    assert_eq!((sandbox.content("a").unwrap(), sandbox.content("b").unwrap()), ("new".into(), "old".into()));
}

#[test]
fn a_member_below_a_link_of_a_lower_layer_goes_where_the_link_leads() {
    // What images from before the usr merge do to one that has it.
    let usrmerged = [dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), file("usr/lib/old", "")];
    let members =
        [file("lib/x", "1"), file("lib/sub/y", "2"), file("lib/.wh.old", ""), hardlink("lib/z", "lib/x")];
    let sandbox = Sandbox::with(&usrmerged);
    sandbox.apply(Merged, &members).unwrap();
    assert_eq!(
        sandbox.names(),
        ["lib", "usr/", "usr/lib/", "usr/lib/sub/", "usr/lib/sub/y", "usr/lib/x", "usr/lib/z"]
    );
    // Alone, the layer says nothing of a link.
    let sandbox = Sandbox::new();
    sandbox.apply(OVERLAY, &members).unwrap();
    assert_eq!(sandbox.names(), ["lib/", "lib/old", "lib/sub/", "lib/sub/y", "lib/x", "lib/z"]);
}

#[test]
fn what_led_through_a_link_does_not_outlive_it() {
    // CVE-2025-47290 was a memory of where a path had led.
    let sandbox = Sandbox::with(&[symlink("a", "."), symlink("l", "d1"), dir("d1"), dir("d2")]);
    let members =
        [file("a/f", ""), dir("a/a"), file("a/g", ""), file("l/1", ""), symlink("l", "d2"), file("l/2", "")];
    sandbox.apply(Merged, &members).unwrap();
    assert_eq!(sandbox.names(), ["a/", "a/g", "d1/", "d1/1", "d2/", "d2/2", "f", "l"]);
}

#[test]
fn a_link_to_nowhere_on_the_way_is_made_a_way() {
    let sandbox = Sandbox::new();
    sandbox.apply(Merged, &[symlink("l", "/no/such/../dir"), file("l/f", "")]).unwrap();
    assert_eq!(sandbox.names(), ["l", "no/", "no/dir/", "no/dir/f", "no/such/"]);
}

#[test]
fn a_file_on_the_way_is_replaced_by_a_directory_in_every_form() {
    for form in FORMS {
        let sandbox = Sandbox::new();
        sandbox.apply(form, &[file("a", ""), file("a/b", "")]).unwrap();
        let names: Vec<_> = sandbox.names().into_iter().filter(|name| !name.contains(".wh.")).collect();
        assert_eq!(names, ["a/", "a/b"]);
    }
}

#[test]
fn a_sparse_file_keeps_its_holes() {
    let map = vec![Segment { offset: 1 << 20, length: 4 }, Segment { offset: 5 << 20, length: 3 }];
    let mut sparse = member("s", Kind::File { size: 8 << 20, sparse: Some(map) });
    sparse.content = b"datatwo".to_vec();
    let sandbox = Sandbox::new();
    let applied = apply_entries(&sandbox.root(), &[sparse], ApplyOptions::new(Merged)).unwrap();
    let content = fs::read(sandbox.path("s")).unwrap();
    assert_eq!(content.len(), 8 << 20);
    assert_eq!((&content[1 << 20..][..4], &content[5 << 20..][..3]), (&b"data"[..], &b"two"[..]));
    assert_eq!(content.iter().filter(|&&byte| byte != 0).count(), 7);
    assert!(meta(&sandbox, "s").blocks() * 512 < 1 << 20, "the holes are holes");
    assert_eq!(applied.bytes, 7);
}

#[test]
fn a_large_file_is_whole() {
    let content: Vec<u8> = (0..3_000_017_u32).map(|i| (i % 251) as u8).collect();
    let sandbox = Sandbox::new();
    sandbox.apply(Merged, &[file("big", &content)]).unwrap();
    assert!(fs::read(sandbox.path("big")).unwrap() == content);
}

#[test]
fn names_may_be_any_bytes() {
    let sandbox = Sandbox::new();
    let long = [b'n'; 255];
    let members =
        [file(b"\xff\xfe", "1"), file(b"new\nline", "2"), file(long, "3"), symlink("l", b"\xc3\x28")];
    sandbox.apply(Merged, &members).unwrap();
    assert_eq!(fs::read_dir(sandbox.root()).unwrap().count(), 4);
}

#[test]
fn a_path_may_be_longer_than_the_kernel_takes() {
    let component = "d".repeat(200);
    let deep = vec![component.as_str(); 40].join("/");
    for form in FORMS {
        let sandbox = Sandbox::new();
        let members =
            [file(format!("{deep}/f"), "x"), hardlink("f", format!("{deep}/f")), dir(&deep).mode(0o700)];
        sandbox.apply(form, &members).unwrap();
        assert_eq!(sandbox.content("f").unwrap(), "x");
        assert_eq!(meta(&sandbox, "f").nlink(), 2);
        // And all of it can be replaced.
        sandbox.apply(form, &[file(&component, "")]).unwrap();
        assert_eq!(meta(&sandbox, "f").nlink(), 1);
    }
}

#[test]
fn a_tree_deeper_than_the_open_directories_is_right_at_every_level() {
    let path = |depth: usize| vec!["d"; depth].join("/");
    for form in FORMS {
        let sandbox = Sandbox::new();
        let mut members: Vec<_> = (1..200).map(|depth| dir(path(depth)).mtime(depth as i64, 0)).collect();
        members.extend((1..200).rev().step_by(7).map(|depth| file(format!("{}/f", path(depth)), "x")));
        members.extend((1..200).step_by(13).map(|depth| symlink(format!("{}/l", path(depth)), "../../f")));
        sandbox.apply(form, &members).unwrap();
        for depth in 1..200 {
            assert_eq!(mtime(&sandbox, &path(depth)).0, depth as i64);
        }
        assert_eq!(sandbox.content(&format!("{}/f", path(199))).unwrap(), "x");
    }
}

#[test]
fn attributes_are_kept_and_survive_owner_and_mode() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let members = [
        file("f", "x")
            .mode(0o6755)
            .owner(1, 2)
            .xattr("security.capability", &capability)
            .xattr("user.a", b"\0\xff"),
        symlink("l", "f").xattr("trusted.t", b"1"),
        member("p", Kind::Fifo).xattr("trusted.t", b"2"),
        dir("d").xattr("user.d", b"").xattr("trusted.t", b"3"),
    ];
    let sandbox = Sandbox::new();
    sandbox.apply(Merged, &members).unwrap();
    assert_eq!(xattr(&sandbox, "f", "security.capability").unwrap(), capability);
    assert_eq!(xattr(&sandbox, "f", "user.a").unwrap(), b"\0\xff");
    assert_eq!(meta(&sandbox, "f").mode() & 0o7777, 0o6755);
    let trusted = ["l", "p", "d"].map(|name| xattr(&sandbox, name, "trusted.t").unwrap());
    assert_eq!(trusted, [b"1", b"2", b"3"]);
    assert_eq!(xattr(&sandbox, "d", "user.d").unwrap(), b"");
}

/// An ACL in the kernel's form, with one user more than the mode has.
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 7_u16, none), (2, 7, 1234), (4, 5, none), (16, 7, none), (32, 0, none)]
    {
        acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn a_default_acl_does_not_spread_to_what_the_archive_lists() {
    let layer = [
        dir("d").xattr("system.posix_acl_default", &acl()),
        file("d/f", ""),
        dir("d/e"),
        file("d/a", "").mode(0o770).xattr("system.posix_acl_access", &acl()),
    ];
    let sandbox = Sandbox::with(&layer);
    // And again into the directory that has it now.
    let more = [file("d/g", "").mode(0o640), dir("d/h").mode(0o750), member("d/p", Kind::Fifo).mode(0o600)];
    sandbox.apply(Merged, &more).unwrap();
    assert_eq!(xattr(&sandbox, "d", "system.posix_acl_default").unwrap(), acl());
    assert_eq!(xattr(&sandbox, "d/a", "system.posix_acl_access").unwrap(), acl());
    for name in ["d/f", "d/e", "d/g", "d/h", "d/p"] {
        assert_eq!(xattr(&sandbox, name, "system.posix_acl_access"), None, "{name}");
        assert_eq!(xattr(&sandbox, name, "system.posix_acl_default"), None, "{name}");
    }
    let modes = ["d/g", "d/h", "d/p"].map(|name| meta(&sandbox, name).mode() & 0o7777);
    assert_eq!(modes, [0o640, 0o750, 0o600]);
}

#[test]
fn a_setgid_directory_gives_nothing_to_what_the_archive_lists() {
    let sandbox = Sandbox::with(&[dir("d").mode(0o2775).owner(0, 50)]);
    sandbox.apply(Merged, &[file("d/f", ""), dir("d/e"), file("d/e/g", ""), symlink("d/l", "f")]).unwrap();
    for name in ["d/f", "d/e", "d/e/g", "d/l"] {
        assert_eq!((meta(&sandbox, name).gid(), meta(&sandbox, name).mode() & 0o2000), (0, 0), "{name}");
    }
}

#[test]
fn selinux_labels_follow_the_option() {
    let labelled = [file("f", "").xattr("security.selinux", b"system_u:object_r:bin_t:s0\0")];
    for (labels, expected) in [(SelinuxLabels::Skip, false), (SelinuxLabels::Keep, true)] {
        let sandbox = Sandbox::new();
        apply_with(&sandbox.root(), &labelled, ApplyOptions { labels, ..ApplyOptions::new(Merged) }).unwrap();
        assert_eq!(xattr(&sandbox, "f", "security.selinux").is_some(), expected);
    }
}

#[test]
fn an_attribute_that_cannot_be_set_is_an_error_or_a_warning() {
    // Only files and directories have user attributes (xattr(7)).
    let members = [symlink("l", "f").xattr("user.a", b"1"), file("f", "x")];
    let sandbox = Sandbox::new();
    let error = sandbox.apply(Merged, &members).unwrap_err().to_string();
    assert!(error.contains("user.a") && error.contains("'l'"), "{error}");
    let sandbox = Sandbox::new();
    let options = ApplyOptions { xattrs: UnsupportedXattrs::Warn, ..ApplyOptions::new(Merged) };
    let applied = apply_with(&sandbox.root(), &members, options).unwrap();
    assert_eq!((applied.warnings.len(), applied.more_warnings), (1, 0));
    assert!(
        applied.warnings[0].contains("'l'") && applied.warnings[0].contains("user.a"),
        "{:?}",
        applied.warnings
    );
    assert_eq!(sandbox.names(), ["f", "l"]);
}

#[test]
fn what_a_later_member_displaces_is_told_before_it_goes() {
    let members = [
        file("a", "1"),
        file("a", "2"),
        file("d/b", "3"),
        file("d/e/c", "4"),
        symlink("d/l", "b"),
        file(".wh.d", ""),
        hardlink("h", "a"),
    ];
    for form in FORMS {
        let sandbox =
            Sandbox::with(if form == Merged { vec![file("d/old", "0")] } else { vec![] }.as_slice());
        let told = Mutex::new(Vec::new());
        let displaced = |path: &[u8]| {
            let path = String::from_utf8(path.to_vec()).unwrap();
            let content = sandbox.content(&path).unwrap();
            told.lock().unwrap().push((path, content));
            Ok(())
        };
        let options = ApplyOptions { displaced: Some(Box::new(displaced)), ..ApplyOptions::new(form) };
        apply_with(&sandbox.root(), &members, options).unwrap();
        let mut told = told.into_inner().unwrap();
        told.sort();
        assert_eq!(
            told,
            [("a", "1"), ("d/b", "3"), ("d/e/c", "4")].map(|(path, text)| (path.into(), text.into()))
        );
    }
}

#[test]
fn the_place_of_a_content_is_where_it_went() {
    let sandbox = Sandbox::new();
    let mut extractor = Extractor::new(sandbox::open(&sandbox.root()), ApplyOptions::new(Merged)).unwrap();
    let mut place = |member: sandbox::Member| {
        extractor.entry(&member.entry, &mut &member.content[..]).unwrap();
        extractor.content_at().map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(place(file("./a//f", "x")).unwrap(), "a/f");
    assert_eq!(place(symlink("l", "/a")), None);
    assert_eq!(place(file("l/g", "x")).unwrap(), "a/g");
    assert_eq!(place(file("/h", "x")).unwrap(), "h");
    assert_eq!(place(file(".wh.h", "x")), None);
    assert_eq!(place(hardlink("i", "a/f")), None);
}

#[test]
fn what_was_made_is_counted() {
    let members =
        [dir("d"), file("d/a", "12345"), hardlink("d/b", "d/a"), symlink("l", "d"), file("x/y", "1")];
    let applied = Sandbox::new().apply(OVERLAY, &members).unwrap();
    assert_eq!((applied.bytes, applied.inodes), (6, 5));
}
