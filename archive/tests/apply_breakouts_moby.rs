//! The ways out that moby's tests know: a member that reaches a directory beside the root, by its own name or by a
//! link. Nothing outside may change, and nothing inside may show what is outside.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "support/sandbox.rs"]
mod sandbox;

use mica_archive::Error;
use sandbox::{FORMS, Member, Sandbox, dir, file, hardlink, symlink};

/// Applies in each form; says which of them refused it.
fn attempt(members: &[Member]) -> [bool; 3] {
    FORMS.map(|form| {
        let sandbox = Sandbox::new();
        let refused = match sandbox.apply(form, members) {
            Ok(_) => false,
            Err(Error::Refused { .. }) => true,
            Err(error) => panic!("{form:?}: not a refusal: {error}"),
        };
        sandbox.assert_unbroken();
        refused
    })
}

const REFUSED: [bool; 3] = [true; 3];
const HARMLESS: [bool; 3] = [false; 3];

#[test]
fn invalid_filenames_dotdot() {
    assert_eq!(attempt(&[file("../victim/dotdot", "")]), REFUSED);
}

#[test]
fn invalid_filenames_slash_dotdot_stays_inside() {
    assert_eq!(attempt(&[file("/../victim/slash-dotdot", "")]), HARMLESS);
    let sandbox = Sandbox::new();
    sandbox.apply(FORMS[0], &[file("/../victim/slash-dotdot", "x")]).unwrap();
    assert_eq!(sandbox.names(), ["victim/", "victim/slash-dotdot"]);
}

#[test]
fn invalid_hardlink_dotdot() {
    assert_eq!(attempt(&[hardlink("dotdot", "../victim/hello")]), REFUSED);
}

#[test]
fn invalid_hardlink_slash_dotdot() {
    assert_eq!(attempt(&[hardlink("slash-dotdot", "/../victim/hello")]), REFUSED);
}

#[test]
fn invalid_hardlink_write_through_loophole() {
    assert_eq!(
        attempt(&[hardlink("loophole-victim", "../victim"), file("loophole-victim/file", "")]),
        REFUSED
    );
}

#[test]
fn invalid_hardlink_read_by_symlink() {
    let members = [hardlink("loophole-victim", "../victim"), symlink("symlink", "loophole-victim/hello")];
    assert_eq!(attempt(&members), REFUSED);
}

#[test]
fn invalid_hardlink_read_by_hardlink() {
    let members = [hardlink("loophole-victim", "../victim"), hardlink("hardlink", "loophole-victim/hello")];
    assert_eq!(attempt(&members), REFUSED);
}

#[test]
fn invalid_hardlink_remove_victim() {
    assert_eq!(attempt(&[hardlink("loophole-victim", "../victim"), file("loophole-victim", "")]), REFUSED);
}

#[test]
fn invalid_symlink_dotdot() {
    // A dangling link is what many images have; nobody followed it.
    assert_eq!(attempt(&[symlink("dotdot", "../victim/hello")]), HARMLESS);
}

#[test]
fn invalid_symlink_slash_dotdot() {
    assert_eq!(attempt(&[symlink("slash-dotdot", "/../victim/hello")]), HARMLESS);
}

#[test]
fn invalid_symlink_write_through_loophole() {
    let members = [symlink("loophole-victim", "../victim"), file("loophole-victim/file", "x")];
    assert_eq!(attempt(&members), HARMLESS);
    let sandbox = Sandbox::new();
    sandbox.apply(FORMS[0], &members).unwrap();
    assert_eq!(
        sandbox.names(),
        ["loophole-victim", "victim/", "victim/file"],
        "the root's parent is the root"
    );
}

#[test]
fn invalid_symlink_read_by_symlink() {
    let members = [symlink("loophole-victim", "../victim"), symlink("symlink", "loophole-victim/hello")];
    assert_eq!(attempt(&members), HARMLESS);
}

#[test]
fn invalid_symlink_read_by_hardlink() {
    let members = [symlink("loophole-victim", "../victim"), hardlink("hardlink", "loophole-victim/hello")];
    assert_eq!(attempt(&members), REFUSED);
}

#[test]
fn invalid_symlink_remove_victim() {
    assert_eq!(attempt(&[symlink("loophole-victim", "../victim"), file("loophole-victim", "")]), HARMLESS);
}

#[test]
fn invalid_symlink_absolute_host_path() {
    // CVE-2018-15664 and CVE-2014-9356: the host's own path, as only the attacker's luck would have it.
    for form in FORMS {
        let sandbox = Sandbox::new();
        let victim = sandbox.root().with_file_name("victim");
        let victim = victim.to_str().unwrap();
        let members =
            [symlink("root", victim), file("root/planted", "x"), dir("root/hello"), symlink("w", victim)];
        sandbox.apply(form, &members).unwrap();
        sandbox.assert_unbroken();
    }
}

#[test]
fn whiteouts_do_not_reach_through_a_link() {
    for form in FORMS {
        for link in ["../victim", "../../victim", "/../victim"] {
            for hit in ["out/.wh.hello", "out/.wh..wh..opq", ".wh.out", "out/../.wh.victim"] {
                let sandbox = Sandbox::new();
                let absolute = sandbox.root().with_file_name("victim");
                let links = [symlink("out", link), symlink("host", absolute.to_str().unwrap())];
                sandbox
                    .apply(form, &[&links[..], &[file(hit, ""), file("host/.wh.hello", "")]].concat())
                    .unwrap();
                sandbox.assert_unbroken();
            }
        }
    }
}

#[test]
fn metadata_of_a_directory_does_not_reach_through_a_link() {
    // RUSTSEC-2026-0067: a directory member with the name of a link changed the mode of where the link led.
    for form in FORMS {
        let sandbox = Sandbox::new();
        let victim = sandbox.root().with_file_name("victim");
        let link = symlink("d", victim.to_str().unwrap());
        sandbox.apply(form, &[link, dir("d").mode(0o7777).owner(1, 1).xattr("user.x", b"1")]).unwrap();
        sandbox.assert_unbroken();
    }
}

#[test]
fn hardlink_to_symlink_links_the_link() {
    for form in FORMS {
        let sandbox = Sandbox::new();
        let members =
            [file("regular", "x"), symlink("symlink1", "regular"), hardlink("symlink2", "symlink1")];
        sandbox.apply(form, &members).unwrap();
        let target = std::fs::read_link(sandbox.path("symlink2")).unwrap();
        assert_eq!(target.to_str(), Some("regular"));
    }
}

#[test]
fn dot_dot_file_is_an_ordinary_name() {
    let sandbox = Sandbox::new();
    sandbox.apply(FORMS[0], &[file("..gitme", "x"), file("a/..b/...", "y")]).unwrap();
    assert_eq!(sandbox.names(), ["..gitme", "a/", "a/..b/", "a/..b/..."]);
}
