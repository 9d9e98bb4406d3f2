//! Branches that mean harm, or go away.

use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, content, exists, mkdir, mkfifo, names, read, rename_with, symlink, write,
};
use crate::common::{Branches, Mode, Union, Volume};

/// Whether the server still answers: it makes, shows and deletes a file.
fn lives(union: &Union) {
    write(union.at("a sign of life"), "x");
    assert!(names(union.root()).contains(&"a sign of life".to_owned()));
    fs::remove_file(union.at("a sign of life")).unwrap();
}

/// Reads whatever is in a tree, and does not mind errors.
fn walk(dir: &Path, depth: usize) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() && depth < 12 {
            walk(&path, depth + 1);
        } else if meta.is_file() {
            let _ = fs::read(&path);
        } else {
            let _ = fs::read_link(&path);
        }
    }
}

pub(crate) fn loops_of_links_end(mode: Mode) {
    let branches = Branches::two(mode);
    symlink("b", branches.lower("a"));
    symlink("a", branches.lower("b"));
    symlink(".", branches.lower("self"));
    mkdir(&branches.lower("dir"));
    symlink("../dir", branches.lower("dir/again"));
    let union = branches.mount();
    assert_eq!(File::open(union.at("a")).refusal(), Errno::LOOP);
    assert_eq!(names(union.at("self/self/dir/again/again")), ["again"]);
    assert_eq!(fs::write(union.at("b/x"), "").refusal(), Errno::LOOP);
    lives(&union);
}

pub(crate) fn links_are_followed_in_the_union_and_not_in_the_branch(mode: Mode) {
    let branches = Branches::two(mode);
    for (neighbour, text) in [("outside", "the branch's"), ("mounted/outside", "the union's")] {
        mkdir(&branches.beside(neighbour));
        write(branches.beside(neighbour).join("file"), text);
    }
    symlink("../outside", branches.lower("dir"));
    symlink("../outside/file", branches.lower("file"));
    let union = branches.mount();
    assert_eq!(read(union.at("dir/file")), "the union's");
    assert_eq!(read(union.at("file")), "the union's");
    for name in ["dir", "file"] {
        std::os::unix::fs::lchown(union.at(name), Some(9), None).unwrap();
        assert!(fs::symlink_metadata(branches.upper(name)).unwrap().is_symlink());
    }
    assert_eq!(read(branches.beside("outside/file")), "the branch's");
}

/// The branch's owner puts a link where the union knows a directory or a file.
pub(crate) fn a_link_put_in_a_directorys_place_leads_nowhere(mode: Mode) {
    for upper in [true, false] {
        let branches = Branches::two(mode);
        let of = branches.path(usize::from(!upper));
        mkdir(&branches.beside("outside/sub"));
        write(branches.beside("outside/secret"), "secret");
        write(branches.beside("outside/sub/secret"), "secret");
        mkdir(&of.join("dir/sub"));
        write(of.join("dir/secret"), "public");
        write(of.join("dir/sub/secret"), "public");
        write(of.join("file"), "public");
        let union = branches.mount();
        walk(union.root(), 0);
        fs::remove_dir_all(of.join("dir")).unwrap();
        symlink("../outside", of.join("dir"));
        fs::remove_file(of.join("file")).unwrap();
        symlink("../outside/secret", of.join("file"));
        union.forget();
        for name in ["dir/secret", "dir/sub/secret", "file"] {
            let shown = fs::read_to_string(union.at(name));
            assert!(!shown.as_ref().is_ok_and(|text| text == "secret"), "{name}, in the upper: {upper}");
            let _ = fs::write(union.at(name), "overwritten");
            let _ = fs::remove_file(union.at(name));
        }
        let _ = fs::write(union.at("dir/new"), "new");
        let _ = fs::write(union.at("dir/sub/new"), "new");
        assert_eq!(names(branches.beside("outside")), ["secret", "sub"]);
        assert_eq!(names(branches.beside("outside/sub")), ["secret"]);
        assert_eq!(read(branches.beside("outside/secret")), "secret");
        assert_eq!(read(branches.beside("outside/sub/secret")), "secret");
        lives(&union);
    }
}

pub(crate) fn strange_whiteouts_do_no_harm(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    let long = format!(".wh.{}", "x".repeat(251));
    let strange = [
        ".wh.",
        ".wh..",
        ".wh...",
        ".wh..wh.",
        ".wh..wh..wh.",
        ".wh..wh.x",
        ".wh..wh.x.0000",
        ".wh. ",
        &long,
    ];
    for number in [0, 1] {
        for name in strange {
            write(branches.path(number).join(name), "");
        }
    }
    mkdir(&branches.path(1).join(".wh..wh.dir.12ab/sub"));
    mkdir(&branches.path(1).join(".wh..wh.plnk"));
    write(branches.path(1).join(".wh..wh.plnk/1.2"), "");
    write(branches.path(1).join(".wh..wh.hino"), "");
    write(branches.path(2).join("x"), "below");
    write(branches.path(2).join("..."), "below");
    let union = branches.mount();
    assert_eq!(names(union.root()), ["...", "x"]);
    assert_eq!(read(union.at("x")), "below");
    lives(&union);
}

/// What AUFS keeps on the writable branch, in forms that it never has.
pub(crate) fn reserved_places_that_are_something_else_are_not_used(mode: Mode) {
    let outside = |branches: &Branches| {
        mkdir(&branches.beside("outside"));
        write(branches.beside("outside/kept"), "kept");
    };
    let forms: [fn(&Path); 4] = [
        |path| symlink("../outside", path),
        |path| symlink("../outside/kept", path),
        |path| mkfifo(path),
        |path| {
            if path.ends_with(".wh..wh.aufs") { mkdir(path) } else { write(path, "text") }
        },
    ];
    for place in [".wh..wh.aufs", ".wh..wh.plnk", ".wh..wh.orph"] {
        for (number, form) in forms.iter().enumerate() {
            let branches = Branches::two(mode);
            outside(&branches);
            form(&branches.upper(place));
            write(branches.lower("a"), "below");
            fs::hard_link(branches.lower("a"), branches.lower("b")).unwrap();
            match branches.try_mount() {
                Ok(union) => {
                    let _ = fs::write(union.at("a"), "above");
                    let _ = fs::remove_file(union.at("b"));
                    let _ = fs::write(union.at("new"), "new");
                    let _ = fs::remove_file(union.at("new"));
                    union.unmount();
                }
                Err(output) => {
                    let told = String::from_utf8_lossy(&output.stderr);
                    assert!(told.contains(place), "{place} in form {number}: {told}");
                }
            }
            assert_eq!(names(branches.beside("outside")), ["kept"], "{place} in form {number}");
            assert_eq!(read(branches.beside("outside/kept")), "kept", "{place} in form {number}");
            let links = std::os::unix::fs::MetadataExt::nlink(
                &fs::metadata(branches.beside("outside/kept")).unwrap(),
            );
            assert_eq!(links, 1, "{place} in form {number}");
        }
    }
}

pub(crate) fn a_branch_that_loses_its_files_takes_nobody_with_it(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    // It has inode numbers of its own, so that new files of the others never get those of its deleted ones.
    let volume = Volume::tmpfs(branches.path(1), 1024);
    for (number, name) in [(1, "gone"), (2, "stays")] {
        mkdir(&branches.path(number).join(name));
        write(branches.path(number).join(name).join("file"), name);
        write(branches.path(number).join(name).join("other"), name);
    }
    let union = branches.mount();
    let open = File::open(union.at("gone/file")).unwrap();
    assert_eq!(content(&open), b"gone");
    fs::remove_dir_all(volume.path().join("gone")).unwrap();
    union.forget();
    walk(union.root(), 0);
    for name in ["gone/file", "gone/other", "gone/none"] {
        let refusal = File::open(union.at(name)).refusal();
        assert!([Errno::NOENT, Errno::STALE, Errno::IO].contains(&refusal), "{name}: {refusal}");
    }
    let _ = fs::write(union.at("gone/new"), "x");
    let _ = fs::remove_dir_all(union.at("gone"));
    assert_eq!(read(union.at("stays/file")), "stays");
    write(union.at("stays/other"), "written");
    assert_eq!(read(union.at("stays/other")), "written");
    drop(open);
    lives(&union);
}

pub(crate) fn a_branch_that_was_removed_shows_nothing(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    write(branches.path(1).join("gone"), "gone");
    write(branches.path(2).join("stays"), "stays");
    let union = branches.mount();
    fs::remove_dir_all(branches.path(1)).unwrap();
    assert_eq!(names(union.root()), ["stays"]);
    assert_eq!(File::open(union.at("gone")).refusal(), Errno::NOENT);
    assert_eq!(read(union.at("stays")), "stays");
    lives(&union);
}

pub(crate) fn a_branch_whose_file_system_goes_takes_nobody_with_it(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    let volume = Volume::tmpfs(branches.path(1), 1024);
    write(volume.path().join("held"), "held");
    write(branches.path(2).join("stays"), "stays");
    let union = branches.mount();
    let open = File::open(union.at("held")).unwrap();
    // Whoever has a descriptor keeps a file system; only its name goes.
    drop(volume);
    assert_eq!(content(&open), b"held");
    walk(union.root(), 0);
    assert_eq!(read(union.at("stays")), "stays");
    lives(&union);
}

pub(crate) fn a_file_that_changes_its_kind_is_not_taken_for_the_old_one(mode: Mode) {
    let branches = Branches::two(mode);
    for name in ["a", "b", "c"] {
        write(branches.lower(name), "below");
    }
    let union = branches.mount();
    walk(union.root(), 0);
    for name in ["a", "b", "c"] {
        fs::remove_file(branches.lower(name)).unwrap();
    }
    mkdir(&branches.lower("a"));
    mkfifo(branches.lower("b"));
    for name in ["a", "b", "c"] {
        // Whether it is shown does not matter, but that the answer comes and is no other file's. Nobody writes to the fifo.
        let mut options = File::options();
        let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(union.at(name));
        let text = file.and_then(std::io::read_to_string);
        assert!(!text.is_ok_and(|text| !text.is_empty() && text != "below"), "{name}");
        let _ = fs::set_permissions(union.at(name), fs::Permissions::from_mode(0o600));
        let _ = rename_with(&union.at(name), &union.at("moved"), RenameFlags::empty());
    }
    lives(&union);
}

pub(crate) fn deep_trees_are_walked(mode: Mode) {
    let branches = Branches::two(mode);
    let deep: std::path::PathBuf = std::iter::repeat_n("d", 400).collect();
    mkdir(&branches.lower(&deep));
    write(branches.lower(deep.join("file")), "deep");
    let union = branches.mount();
    assert_eq!(read(union.at(deep.join("file"))), "deep");
    write(union.at(deep.join("file")), "deeper");
    assert_eq!(read(branches.upper(deep.join("file"))), "deeper");
    fs::rename(union.at(deep.join("file")), union.at("file")).unwrap();
    fs::remove_dir_all(union.at("d")).unwrap();
    assert_eq!(names(union.root()), ["file"]);
    assert!(exists(branches.lower(deep.join("file"))));
}
