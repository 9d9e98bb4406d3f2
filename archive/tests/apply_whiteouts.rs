//! What whiteouts and opaque markers become, in each form, in every order that an archive may have them.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/sandbox.rs"]
mod sandbox;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use mica_archive::apply::WhiteoutForm::{self, Aufs, Merged};
use mica_archive::apply::{ApplyOptions, Extractor, adopt};
use sandbox::{FORMS, Member, OVERLAY, Sandbox, dir, file, hardlink, open, symlink};

/// The tree as names: a whiteout device with `!`, an opaque directory with `*`.
fn tree(sandbox: &Sandbox) -> Vec<String> {
    let mark = |name: String| {
        let path = sandbox.path(&name);
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut value = [0; 8];
        let opaque = rustix::fs::lgetxattr(&path, "trusted.overlay.opaque", &mut value).is_ok();
        let device = meta.file_type().is_char_device() && meta.rdev() == 0;
        format!("{name}{}{}", if device { "!" } else { "" }, if opaque { "*" } else { "" })
    };
    sandbox.names().into_iter().map(mark).collect()
}

fn applied(form: WhiteoutForm, base: &[Member], members: &[Member]) -> Vec<String> {
    // What is below is in the tree in the merged form only.
    let sandbox = if form == Merged { Sandbox::with(base) } else { Sandbox::new() };
    sandbox.apply(form, members).unwrap();
    sandbox.assert_unbroken();
    tree(&sandbox)
}

fn base() -> Vec<Member> {
    vec![dir("a"), file("a/old", "1"), dir("a/sub"), file("a/sub/old", "1"), file("f", "1")]
}

/// The same layer in the three forms.
#[track_caller]
fn table(members: &[Member], merged: &[&str], overlay: &[&str], aufs: &[&str]) {
    assert_eq!(applied(Merged, &base(), members), merged, "merged");
    assert_eq!(applied(OVERLAY, &base(), members), overlay, "overlay");
    assert_eq!(applied(Aufs, &base(), members), aufs, "aufs");
}

#[test]
fn a_whiteout_hides_a_file() {
    table(&[file(".wh.f", "")], &["a/", "a/old", "a/sub/", "a/sub/old"], &["f!"], &[".wh.f"]);
}

#[test]
fn a_whiteout_hides_a_directory_with_its_content() {
    table(&[file(".wh.a", "")], &["f"], &["a!"], &[".wh.a"]);
}

#[test]
fn a_whiteout_of_what_is_not_there_is_no_error() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "f", "x/"];
    table(&[file("x/.wh.y", "")], &merged, &["x/", "x/y!"], &["x/", "x/.wh.y"]);
}

#[test]
fn a_file_after_its_whiteout_is_there() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "f"];
    table(&[file(".wh.f", ""), file("f", "2")], &merged, &["f"], &["f"]);
}

#[test]
fn a_whiteout_after_its_file_takes_it_away() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old"];
    table(&[file("f", "2"), file(".wh.f", "")], &merged, &["f!"], &[".wh.f"]);
}

#[test]
fn a_directory_made_anew_hides_the_old_one() {
    let members = [file(".wh.a", ""), dir("a"), file("a/new", "2")];
    table(&members, &["a/", "a/new", "f"], &["a/*", "a/new"], &["a/", "a/.wh..wh..opq", "a/new"]);
}

#[test]
fn a_directory_implied_after_its_whiteout_hides_the_old_one() {
    let members = [file(".wh.a", ""), file("a/new", "2")];
    table(&members, &["a/", "a/new", "f"], &["a/*", "a/new"], &["a/", "a/.wh..wh..opq", "a/new"]);
}

#[test]
fn a_directory_that_was_a_file_meanwhile_hides_the_old_one() {
    let members = [file("a", "2"), dir("a")];
    table(&members, &["a/", "f"], &["a/*"], &["a/", "a/.wh..wh..opq"]);
}

#[test]
fn what_a_removed_directory_hid_is_forgotten_with_it() {
    let members =
        [file("a/.wh.old", ""), file(".wh.a", ""), file("a/old", "2"), file("a/sub/.wh..wh..opq", "")];
    let aufs = ["a/", "a/.wh..wh..opq", "a/old", "a/sub/", "a/sub/.wh..wh..opq"];
    table(&members, &["a/", "a/old", "a/sub/", "f"], &["a/*", "a/old", "a/sub/*"], &aufs);
}

#[test]
fn a_link_instead_of_a_directory_hides_it() {
    table(&[symlink("a", "f")], &["a", "f"], &["a"], &["a"]);
}

#[test]
fn an_opaque_directory_keeps_what_came_before_the_marker() {
    let members =
        [dir("a"), file("a/new", "2"), dir("a/sub"), file("a/sub/new", "2"), file("a/.wh..wh..opq", "")];
    let all = ["a/", "a/new", "a/sub/", "a/sub/new", "f"];
    let aufs = ["a/", "a/.wh..wh..opq", "a/new", "a/sub/", "a/sub/new"];
    table(&members, &all, &["a/*", "a/new", "a/sub/", "a/sub/new"], &aufs);
}

#[test]
fn an_opaque_directory_keeps_what_comes_after_the_marker() {
    let members = [dir("a"), file("a/.wh..wh..opq", ""), file("a/new", "2"), file("a/sub/new", "2")];
    let all = ["a/", "a/new", "a/sub/", "a/sub/new", "f"];
    let aufs = ["a/", "a/.wh..wh..opq", "a/new", "a/sub/", "a/sub/new"];
    table(&members, &all, &["a/*", "a/new", "a/sub/", "a/sub/new"], &aufs);
}

#[test]
fn an_opaque_directory_keeps_a_file_that_replaced_an_older_one() {
    let members = [file("a/old", "2"), file("a/.wh..wh..opq", "")];
    table(&members, &["a/", "a/old", "f"], &["a/*", "a/old"], &["a/", "a/.wh..wh..opq", "a/old"]);
}

#[test]
fn an_opaque_marker_makes_its_directory() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "f", "x/"];
    table(&[file("x/.wh..wh..opq", "")], &merged, &["x/*"], &["x/", "x/.wh..wh..opq"]);
}

/// As umoci writes a directory that became a file.
#[test]
fn a_whiteout_below_a_file_of_the_same_layer_leaves_it() {
    let members = [file("a", "2"), file("a/.wh.old", ""), file("a/sub/.wh.old", ""), file("a/.wh.sub", "")];
    table(&members, &["a", "f"], &["a"], &["a"]);
}

/// Docker and containerd refuse such a layer; none makes a directory of the file.
#[test]
fn a_whiteout_below_a_file_of_the_same_layer_leaves_it_also_behind_links() {
    let links = [symlink("l", "d"), symlink("m", "/l"), symlink("e/up", "../m"), symlink("d/g", "f")];
    let members = [dir("d"), dir("e"), file("d/f", "2")].into_iter().chain(links);
    let whiteouts = ["l/f/.wh.old", "m/f/sub/.wh.old", "e/up/f/.wh.old", "l/g/.wh.old"];
    let members: Vec<_> = members.chain(whiteouts.map(|path| file(path, ""))).collect();
    let layer = ["d/", "d/f", "d/g", "e/", "e/up", "l", "m"];
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "d/", "d/f", "d/g", "e/", "e/up", "f", "l", "m"];
    table(&members, &merged, &layer, &layer);
}

#[test]
fn a_whiteout_below_an_older_file_behind_a_link_makes_a_directory_in_every_form() {
    let members = [symlink("l", "a"), file("l/old/.wh.x", "")];
    let merged = ["a/", "a/old/", "a/sub/", "a/sub/old", "f", "l"];
    table(&members, &merged, &["a/", "a/old/", "a/old/x!", "l"], &["a/", "a/old/", "a/old/.wh.x", "l"]);
}

/// In a tree of one layer it is not seen that the layer below has no directory there.
#[test]
fn a_whiteout_below_an_older_file_makes_a_directory_in_every_form() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "f/"];
    table(&[file("f/.wh.x", "")], &merged, &["f/", "f/x!"], &["f/", "f/.wh.x"]);
}

#[test]
fn an_opaque_marker_in_a_file_replaces_it_by_a_directory() {
    let merged = ["a/", "a/old", "a/sub/", "a/sub/old", "f/"];
    table(&[file("f/.wh..wh..opq", "")], &merged, &["f/*"], &["f/", "f/.wh..wh..opq"]);
}

#[test]
fn an_opaque_root_hides_everything_and_is_reported() {
    // Overlayfs ignores the mark on the root of a layer, so whoever mounts it must know.
    for form in FORMS {
        let sandbox = Sandbox::with(if form == Merged { base() } else { Vec::new() }.as_slice());
        let applied =
            sandbox.apply(form, &[file(".abc", ""), file(".wh..wh..opq", ""), file("f", "2")]).unwrap();
        assert!(applied.opaque_root);
        let names: Vec<_> = sandbox.names().into_iter().filter(|name| !name.starts_with(".wh.")).collect();
        assert_eq!(names, [".abc", "f"]);
    }
}

#[test]
fn an_opaque_directory_keeps_its_time_and_those_below_theirs() {
    let sandbox = Sandbox::with(&base());
    let members = [dir("a").mtime(5, 6), dir("a/sub").mtime(7, 8), file("a/.wh..wh..opq", "")];
    sandbox.apply(Merged, &members).unwrap();
    assert_eq!(sandbox.names(), ["a/", "a/sub/", "f"]);
    for (name, time) in [("a", (5, 6)), ("a/sub", (7, 8))] {
        let meta = fs::metadata(sandbox.path(name)).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), time, "{name}");
    }
}

#[test]
fn user_xattrs_mark_an_opaque_directory_where_asked() {
    let sandbox = Sandbox::new();
    sandbox.apply(WhiteoutForm::Overlay { user_xattr: true }, &[file("a/.wh..wh..opq", "")]).unwrap();
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(sandbox.path("a"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn bookkeeping_of_aufs_is_left_out() {
    let members = [
        dir(".wh..wh.plnk"),
        file(".wh..wh.plnk/12.7", "x"),
        file(".wh..wh.aufs", ""),
        dir(".wh..wh.orph"),
        hardlink(".wh.f", ".wh..wh.aufs"),
    ];
    table(&members, &["a/", "a/old", "a/sub/", "a/sub/old"], &["f!"], &[".wh.f"]);
}

#[test]
fn a_hard_link_to_what_this_layer_hid_is_refused() {
    for form in FORMS {
        let sandbox = Sandbox::with(if form == Merged { base() } else { Vec::new() }.as_slice());
        let error = sandbox.apply(form, &[file(".wh.f", ""), hardlink("g", "f")]).unwrap_err();
        assert!(error.to_string().contains("'g'") && error.to_string().contains("'f'"), "{error}");
    }
}

#[test]
fn an_opaque_marker_is_obeyed_once_however_often_it_comes() {
    // CVE-2026-95838: a walk for each of many markers. Something put there behind the extractor's back shows
    // whether it looks again.
    let sandbox = Sandbox::with(&base());
    let mut extractor = Extractor::new(open(&sandbox.root()), ApplyOptions::new(Merged)).unwrap();
    let mut apply = |member: Member| extractor.entry(&member.entry, &mut &member.content[..]).unwrap();
    for member in [file("a/new", ""), file("a/sub/new", ""), file("a/.wh..wh..opq", "")] {
        apply(member);
    }
    for planted in ["a/planted", "a/sub/planted"] {
        fs::write(sandbox.path(planted), "").unwrap();
    }
    for member in [
        file("a/.wh..wh..opq", ""),
        file("f", ""),
        file("a/sub/.wh..wh..opq", ""),
        file("a/.wh..wh..opq", ""),
    ] {
        apply(member);
    }
    let left = ["a/", "a/new", "a/planted", "a/sub/", "a/sub/new", "a/sub/planted", "f"];
    assert_eq!(sandbox.names(), left);
}

/// The layers of moby's test, each with what is left after it.
#[test]
fn layer_upon_layer_leaves_what_moby_expects() {
    fn layer(names: &[&str]) -> Vec<Member> {
        names.iter().map(|name| if name.ends_with('/') { dir(name) } else { file(name, "") }).collect()
    }
    let base = [
        ".baz",
        "bar/",
        "bar/bax",
        "bar/bay/",
        "baz",
        "foo/",
        "foo/.abc",
        "foo/.bcd/",
        "foo/.bcd/a",
        "foo/cde/",
        "foo/cde/def",
        "foo/cde/efg",
        "foo/fgh",
        "foobar",
    ];
    let second = [".bay", ".wh.baz", "foo/", "foo/.bce", "foo/.wh..wh..opq", "foo/cde/", "foo/cde/efg"];
    let third = [".bay", ".wh..baz", ".wh.foobar", "foo/", "foo/.abc", "foo/.wh.cde", "bar/"];
    let fourth = [".abc", ".wh..wh..opq", "foobar"];
    let left: [&[&str]; 4] = [
        &base,
        &[
            ".bay",
            ".baz",
            "bar/",
            "bar/bax",
            "bar/bay/",
            "foo/",
            "foo/.bce",
            "foo/cde/",
            "foo/cde/efg",
            "foobar",
        ],
        &[".bay", "bar/", "bar/bax", "bar/bay/", "foo/", "foo/.abc", "foo/.bce"],
        &[".abc", "foobar"],
    ];
    let sandbox = Sandbox::new();
    for (names, left) in [&base[..], &second, &third, &fourth].into_iter().zip(left) {
        sandbox.apply(Merged, &layer(names)).unwrap();
        assert_eq!(sandbox.names(), left);
    }
}

#[test]
fn a_layer_that_stands_on_nothing_keeps_no_whiteout() {
    let sandbox = Sandbox::new();
    let members =
        [file(".wh.root", ""), dir("a"), file("a/.wh.x", ""), file("a/kept", "1"), file("b/.wh.y", "")];
    let applied = sandbox.apply(OVERLAY, &members).unwrap();
    adopt(open(&sandbox.root()), None, &applied).unwrap();
    assert_eq!(tree(&sandbox), ["a/", "a/kept", "b/"]);
}
