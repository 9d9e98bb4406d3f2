//! The ways out that containerd's tests know, each with the tree that it expects.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/sandbox.rs"]
mod sandbox;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mica_archive::Error;
use mica_archive::apply::WhiteoutForm::Merged;
use sandbox::{FORMS, Member, Sandbox, dir, file, hardlink, symlink};

/// Applies to an empty tree in each form, then hands out the merged one.
fn apply(members: &[Member]) -> Sandbox {
    apply_over(&[], members)
}

/// As [`apply`], the merged tree holding `base` before.
fn apply_over(base: &[Member], members: &[Member]) -> Sandbox {
    for form in FORMS {
        let sandbox = Sandbox::new();
        sandbox.apply(form, members).unwrap();
        sandbox.assert_unbroken();
    }
    let sandbox = Sandbox::with(base);
    sandbox.apply(Merged, members).unwrap();
    sandbox.assert_unbroken();
    sandbox
}

fn etc_passwd() -> Vec<Member> {
    vec![dir("etc").mode(0o770), file("/etc/passwd", "inside")]
}

fn and(mut members: Vec<Member>, more: impl IntoIterator<Item = Member>) -> Vec<Member> {
    members.extend(more);
    members
}

#[test]
fn symlink_absolute() {
    let sandbox = apply(&[dir("etc"), symlink("localetc", "/etc"), file("/localetc/unbroken", "unbroken")]);
    assert_eq!(sandbox.content("etc/unbroken").unwrap(), "unbroken");
}

#[test]
fn symlink_up_and_out() {
    let link = symlink("localetc", "/dummy/../etc");
    let sandbox = apply(&[dir("etc"), dir("dummy"), link, file("/localetc/unbroken", "unbroken")]);
    assert_eq!(sandbox.content("etc/unbroken").unwrap(), "unbroken");
}

#[test]
fn symlink_multiple_absolute() {
    let links = [symlink("/dummy/etc", "/etc"), symlink("localetc", "/dummy/etc")];
    let unbroken = file("/dummy/etc/unbroken", "unbroken");
    let sandbox = apply(&and(and(vec![dir("etc"), dir("dummy")], links), [unbroken]));
    assert_eq!(sandbox.content("etc/unbroken").unwrap(), "unbroken");
}

#[test]
fn symlink_multiple_relative() {
    let links = [symlink("/dummy/etc", "/etc"), symlink("localetc", "./dummy/etc")];
    let unbroken = file("/localetc/unbroken", "unbroken");
    let sandbox = apply(&and(and(vec![dir("etc"), dir("dummy")], links), [unbroken]));
    assert_eq!(sandbox.content("etc/unbroken").unwrap(), "unbroken");
}

#[test]
fn symlink_empty_file() {
    let emptied =
        [file("etc/emptied", "notempty"), symlink("localetc", "/etc"), file("/localetc/emptied", "")];
    let sandbox = apply(&and(vec![dir("etc")], emptied));
    assert_eq!(sandbox.content("etc/emptied").unwrap(), "");
}

#[test]
fn hardlink_relative() {
    let more = [
        dir("breakouts"),
        symlink("breakouts/d1", "../../etc"),
        hardlink("breakouts/mypasswd", "/breakouts/d1/passwd"),
    ];
    assert!(apply(&and(etc_passwd(), more)).same_file("breakouts/mypasswd", "etc/passwd"));
}

#[test]
fn hardlink_down_and_out() {
    let more = [
        dir("breakouts"),
        dir("downandout"),
        symlink("breakouts/d1", "../downandout/../../etc"),
        hardlink("breakouts/mypasswd", "/breakouts/d1/passwd"),
    ];
    assert!(apply(&and(etc_passwd(), more)).same_file("breakouts/mypasswd", "etc/passwd"));
}

#[test]
fn hardlink_absolute() {
    let more = [symlink("localetc", "/etc"), hardlink("localpasswd", "/localetc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn hardlink_relative_long() {
    let more = [symlink("localetc", "../../../../../../../etc"), hardlink("localpasswd", "/localetc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn hardlink_relative_up_and_out() {
    // The link's first component does not exist.
    let more = [symlink("localetc", "upandout/../../../etc"), hardlink("localpasswd", "/localetc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn hardlink_direct_relative() {
    let more = [hardlink("localpasswd", "../../../../../etc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn hardlink_direct_absolute() {
    // go-archive 0.3.0 lost these while mending CVE-2026-17106; images have them.
    let more = [hardlink("localpasswd", "/etc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn symlink_parent_directory() {
    let more = [symlink("..", "/etc/"), hardlink("localpasswd", "/etc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localpasswd", "etc/passwd"));
}

#[test]
fn symlink_empty_filename() {
    let members = and(etc_passwd(), [symlink("", "/etc/"), hardlink("localpasswd", "/etc/passwd")]);
    let sandbox = Sandbox::new();
    sandbox::apply_entries(&sandbox.root(), &members, mica_archive::apply::ApplyOptions::new(Merged))
        .unwrap();
    sandbox.assert_unbroken();
    assert!(sandbox.same_file("localpasswd", "etc/passwd"));
}

#[test]
fn symlink_parent_relative() {
    let more = [symlink("localetc/sub/..", "/etc/"), hardlink("/localetc/localpasswd", "/etc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localetc/localpasswd", "etc/passwd"));
}

#[test]
fn symlink_slash_ended() {
    let more = [dir("localetc/").mode(0o770), hardlink("/localetc/localpasswd", "/etc/passwd")];
    assert!(apply(&and(etc_passwd(), more)).same_file("localetc/localpasswd", "etc/passwd"));
}

/// Hard links need their target in the layer, or in the tree; the lower tree is there in the merged form only.
fn merged_over(base: &[Member], members: &[Member]) -> Sandbox {
    let sandbox = Sandbox::with(base);
    sandbox.apply(Merged, members).unwrap();
    sandbox.assert_unbroken();
    sandbox
}

#[test]
fn symlink_override_directory() {
    let base = and(etc_passwd(), [dir("localetc")]);
    let members = [symlink("localetc", "/etc"), hardlink("/localetc/localpasswd", "/etc/passwd")];
    assert!(merged_over(&base, &members).same_file("localetc/localpasswd", "etc/passwd"));
}

#[test]
fn symlink_override_directory_relative() {
    let base = and(etc_passwd(), [dir("localetc")]);
    let members = [symlink("localetc", "../../etc"), hardlink("/localetc/localpasswd", "/etc/passwd")];
    assert!(merged_over(&base, &members).same_file("localetc/localpasswd", "etc/passwd"));
}

#[test]
fn directory_override_symlink() {
    let base = and(etc_passwd(), [symlink("localetc", "/etc")]);
    let members = [dir("/localetc/"), hardlink("/localetc/localpasswd", "/etc/passwd")];
    let sandbox = merged_over(&base, &members);
    assert!(sandbox.same_file("localetc/localpasswd", "etc/passwd"));
    assert!(sandbox.content("etc/localpasswd").is_none(), "the link is gone, not followed");
}

#[test]
fn directory_override_symlink_and_hardlink() {
    let base =
        and(etc_passwd(), [symlink("localetc", "etc"), hardlink("/localetc/localpasswd", "/etc/passwd")]);
    let members = [dir("/localetc/"), file("/localetc/localpasswd", "different")];
    let sandbox = merged_over(&base, &members);
    assert!(!sandbox.same_file("localetc/localpasswd", "etc/passwd"));
    assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
}

fn refused(name: &str) {
    for form in FORMS {
        let sandbox = Sandbox::with(&etc_passwd());
        let error = sandbox.apply(form, &[file(name, "")]).unwrap_err();
        assert!(matches!(&error, Error::Refused { path, .. } if path == name), "{form:?}: {error}");
        assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
        sandbox.assert_unbroken();
    }
}

#[test]
fn whiteout_root_parent() {
    refused(".wh...");
}

#[test]
fn whiteout_parent() {
    refused("etc/.wh...");
}

#[test]
fn whiteout_root() {
    refused(".wh..");
}

#[test]
fn whiteout_current_directory() {
    refused("etc/.wh..");
}

#[test]
fn whiteout_symlink() {
    let base = and(etc_passwd(), [symlink("localetc", "/etc")]);
    let sandbox = apply_over(&base, &[file(".wh.localetc", "")]);
    assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
    assert!(fs::symlink_metadata(sandbox.path("localetc")).is_err());
}

#[test]
fn whiteout_symlink_path() {
    let base = and(etc_passwd(), [file("etc/whitedout", "ahhhh whiteout"), symlink("localetc", "/etc")]);
    let sandbox = apply_over(&base, &[file("localetc/.wh.whitedout", "")]);
    assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
    assert!(sandbox.content("etc/whitedout").is_none());
}

#[test]
fn whiteout_directory_name() {
    let base = and(etc_passwd(), [symlink("localetc", "/etc")]);
    let sandbox = merged_over(&base, &[file(".wh.etc/somefile", "non-empty")]);
    assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
    assert_eq!(sandbox.content(".wh.etc/somefile").unwrap(), "non-empty");
}

#[test]
fn whiteout_dead_symlink_parent() {
    let base = and(etc_passwd(), [symlink("localetc", "/dne")]);
    let sandbox = apply_over(&base, &[file("localetc/.wh.etc", "")]);
    assert_eq!(sandbox.content("etc/passwd").unwrap(), "inside");
}

#[test]
fn whiteout_relative_path() {
    let base = and(etc_passwd(), [symlink("localetc", "/dne")]);
    let sandbox = apply_over(&base, &[file("dne/../.wh.etc", "")]);
    assert!(sandbox.content("etc/passwd").is_none());
}

#[test]
fn symlink_override_path() {
    // A directory of this layer becomes a link, and a later member goes through it.
    let members = [dir("a"), file("a/f", "1"), dir("b"), symlink("a", "b"), file("a/f", "2")];
    let sandbox = apply(&members);
    assert_eq!(sandbox.names(), ["a", "b/", "b/f"]);
    assert_eq!(sandbox.content("b/f").unwrap(), "2");
}

#[test]
fn hardlink_symlink_before_create_target() {
    let members = [
        dir("etc").mode(0o770),
        symlink("localpasswd", "/etc/passwd"),
        hardlink("localpasswd-dup", "localpasswd"),
        file("/etc/passwd", "after"),
    ];
    assert!(apply(&members).same_file("localpasswd-dup", "etc/passwd"));
}

fn hardlink_to_link(target: &str) {
    let more = [symlink("passwdlink", target), hardlink("localpasswd", "/passwdlink")];
    let sandbox = apply(&and(etc_passwd(), more));
    let read = |name| fs::read_link(sandbox.path(name)).unwrap();
    assert_eq!(read("localpasswd"), read("passwdlink"));
    assert!(sandbox.same_file("localpasswd", "etc/passwd"));
}

#[test]
fn hardlink_symlink_relative() {
    hardlink_to_link("../../../../../etc/passwd");
}

#[test]
fn hardlink_symlink_absolute() {
    hardlink_to_link("/etc/passwd");
}

#[test]
fn hardlink_symlink_chmod() {
    // CVE-2021-32760: the mode of a hard link to a symbolic link was set on what the link points to.
    for form in FORMS {
        let sandbox = Sandbox::new();
        let outside = sandbox.root().with_file_name("victim").join("hello");
        let outside = outside.to_str().unwrap();
        let members = [symlink("link", outside), hardlink("sketchylink", "link").mode(0o777)];
        sandbox.apply(form, &members).unwrap();
        sandbox.assert_unbroken();
        assert_eq!(fs::metadata(outside).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
