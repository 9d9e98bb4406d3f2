//! Directories: shown as one, listed, and renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use mica_conformance::tree::Times;
use rustix::fs::{Dir, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::common::files::{
    Refusable, exists, inode, mkdir, names, names_of_branch, read, rename_with, symlink, write,
};
use crate::common::{Branches, Mode, Volume};

pub(crate) fn branches_are_shown_as_one(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh", "ro+wh"]);
    for number in 0..4 {
        let path = branches.path(number);
        mkdir(&path.join("dir/sub"));
        for name in [format!("dir/only-{number}"), "dir/all".to_owned(), format!("dir/sub/{number}")] {
            write(path.join(name), number.to_string());
        }
    }
    let union = branches.mount();
    assert_eq!(names(union.root()), ["dir"]);
    assert_eq!(names(union.at("dir")), ["all", "only-0", "only-1", "only-2", "only-3", "sub"]);
    assert_eq!(names(union.at("dir/sub")), ["0", "1", "2", "3"]);
    assert_eq!(read(union.at("dir/all")), "0");
    assert_eq!(read(union.at("dir/only-3")), "3");
}

pub(crate) fn a_count_of_links_misleads_nobody_who_counts_subdirectories(mode: Mode) {
    let branches = Branches::two(mode);
    for (number, name) in [(0, "dir/a"), (1, "dir/b"), (1, "dir/c")] {
        mkdir(&branches.path(number).join(name));
    }
    let union = branches.mount();
    // One says that they are not counted.
    let links = fs::metadata(union.at("dir")).unwrap().nlink();
    assert!(links == 1 || links == 5, "{links}");
    let found = Command::new("find").arg(union.root()).args(["-type", "d"]).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap().lines().count(), 5);
}

pub(crate) fn attributes_are_the_topmost_ones(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    for (number, mode) in [(1, 0o711), (2, 0o777)] {
        mkdir(&branches.path(number).join("dir"));
        crate::common::files::chmod(branches.path(number).join("dir"), mode);
    }
    let union = branches.mount();
    assert_eq!(fs::metadata(union.at("dir")).unwrap().mode() & 0o7777, 0o711);
}

pub(crate) fn a_listing_tells_the_numbers_and_kinds_that_stat_tells(mode: Mode) {
    let branches = Branches::two(mode);
    let elsewhere = Volume::tmpfs(branches.lower("../1"), 1024);
    mkdir(&branches.upper("dir"));
    for path in [branches.upper("dir"), elsewhere.path().join("dir")] {
        mkdir(&path.join("sub"));
        symlink("x", path.join(format!("link-{}", path.as_os_str().len())));
        write(path.join(format!("file-{}", path.as_os_str().len())), "");
    }
    let union = branches.mount();
    let device = fs::metadata(union.root()).unwrap().dev();
    let mut seen = BTreeSet::new();
    for entry in Dir::new(File::open(union.at("dir")).unwrap()).unwrap() {
        let entry = entry.unwrap();
        let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
        let meta = fs::symlink_metadata(union.at("dir").join(name)).unwrap();
        assert_eq!(meta.dev(), device, "{}", name.display());
        assert_eq!(entry.ino(), meta.ino(), "{}", name.display());
        let kind = rustix::fs::FileType::from_raw_mode(meta.mode());
        assert_eq!(entry.file_type(), kind, "{}", name.display());
        seen.insert(meta.ino());
    }
    // The two links, the two files, the directory, itself and the one above.
    assert_eq!(seen.len(), 7);
}

pub(crate) fn numbers_stay_while_it_is_mounted(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    write(branches.lower("dir/file"), "below");
    symlink("x", branches.lower("dir/link"));
    let union = branches.mount();
    let all = ["dir", "dir/file", "dir/link"];
    let before = all.map(|name| inode(union.at(name)));
    write(union.at("dir/file"), "above");
    crate::common::files::chown(union.at("dir/link"), 7, 7);
    assert_eq!(all.map(|name| inode(union.at(name))), before, "copied up");
    union.forget();
    assert_eq!(all.map(|name| inode(union.at(name))), before, "forgotten");
    fs::rename(union.at("dir/file"), union.at("moved")).unwrap();
    union.forget();
    assert_eq!(inode(union.at("moved")), before[1], "renamed");
}

pub(crate) fn numbers_differ_between_file_systems(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    let volumes = [1, 2].map(|number| Volume::tmpfs(branches.path(number), 1024));
    for (number, volume) in volumes.iter().enumerate() {
        for file in 0..20 {
            write(volume.path().join(format!("{number}-{file}")), "");
        }
    }
    // Both count from the same number.
    assert_eq!(inode(volumes[0].path().join("0-0")), inode(volumes[1].path().join("1-0")));
    let union = branches.mount();
    let numbers: BTreeSet<u64> = names(union.root()).iter().map(|name| inode(union.at(name))).collect();
    assert_eq!(numbers.len(), 40);
}

pub(crate) fn everything_can_be_deleted_while_it_is_listed(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    mkdir(&branches.upper("dir"));
    for number in 0..1500 {
        write(branches.path(number % 2).join(format!("dir/{}-{number}", "n".repeat(number % 60))), "");
    }
    let union = branches.mount();
    let mut deleted = 0;
    for entry in fs::read_dir(union.at("dir")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        deleted += 1;
    }
    assert_eq!(deleted, 1500);
    fs::remove_dir(union.at("dir")).unwrap();
    assert_eq!(names_of_branch(branches.path(0)), [".wh.dir"]);
}

pub(crate) fn a_listing_can_be_taken_up_where_it_was_left(mode: Mode) {
    let branches = Branches::two(mode);
    for number in 0..400 {
        write(branches.path(number % 2).join(format!("{number:0>100}")), "");
    }
    let union = branches.mount();
    let list = |from: Option<i64>| {
        let file = File::open(union.root()).unwrap();
        if let Some(from) = from {
            rustix::fs::seek(&file, SeekFrom::Start(from as u64)).unwrap();
        }
        let entries = Dir::new(file).unwrap().map(Result::unwrap);
        let told: Vec<_> = entries.map(|entry| (entry.file_name().to_owned(), entry.offset())).collect();
        told
    };
    let whole = list(None);
    assert_eq!(whole.len(), 402);
    for at in [0, 1, 17, 200, 400] {
        let rest: Vec<_> = list(Some(whole[at].1)).into_iter().map(|(name, _)| name).collect();
        let expected: Vec<_> = whole[at + 1..].iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(rest, expected, "after entry {at}");
    }
}

pub(crate) fn a_listing_begun_again_shows_what_is_new(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "");
    let union = branches.mount();
    let file = File::open(union.root()).unwrap();
    let count = || {
        rustix::fs::seek(&file, SeekFrom::Start(0)).unwrap();
        Dir::new(file.try_clone().unwrap()).unwrap().count()
    };
    assert_eq!(count(), 3);
    write(union.at("b"), "");
    assert_eq!(count(), 4);
    fs::remove_file(union.at("a")).unwrap();
    assert_eq!(count(), 3);
}

/// Directories that cannot be renamed, for they have something on a lower branch.
pub(crate) fn one_with_something_below_is_not_renamed(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    for (number, name) in [(1, "below/x"), (2, "both/x"), (1, "split/x"), (2, "split/y"), (1, "deep/sub/x")] {
        mkdir(branches.path(number).join(name).parent().unwrap());
        write(branches.path(number).join(name), "");
    }
    mkdir(&branches.upper("both"));
    write(branches.upper("both/above"), "");
    let union = branches.mount();
    let before = union.snapshot();
    for name in ["below", "both", "split", "deep"] {
        let refusal = fs::rename(union.at(name), union.at("moved")).refusal();
        assert_eq!(refusal, Errno::XDEV, "{name}");
    }
    let after = union.snapshot();
    after.expect(&before, Times::OfAll).unwrap();
    // What mv(1) does about it.
    let moved = Command::new("mv").arg(union.at("both")).arg(union.at("moved")).status().unwrap();
    assert!(moved.success());
    assert_eq!(names(union.at("moved")), ["above", "x"]);
    assert!(!exists(union.at("both")));
}

pub(crate) fn one_of_the_upper_branch_is_renamed(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("into"));
    let union = branches.mount();
    mkdir(&union.at("dir/sub"));
    write(union.at("dir/sub/file"), "x");
    let number = inode(union.at("dir/sub/file"));
    fs::rename(union.at("dir"), union.at("into/moved")).unwrap();
    assert_eq!(read(union.at("into/moved/sub/file")), "x");
    assert_eq!(inode(union.at("into/moved/sub/file")), number);
    assert!(!exists(union.at("dir")));
    assert_eq!(fs::rename(union.at("into"), union.at("into/moved/x")).refusal(), Errno::INVAL);
    assert_eq!(names_of_branch(branches.path(0)), ["into"]);
}

pub(crate) fn one_whose_lower_content_does_not_show_is_renamed(mode: Mode) {
    let branches = Branches::two(mode);
    for dir in ["emptied", "hidden", "opaque", "empty"] {
        mkdir(&branches.lower(dir));
    }
    write(branches.lower("emptied/x"), "");
    write(branches.lower("hidden/x"), "");
    write(branches.lower("opaque/x"), "");
    mkdir(&branches.upper("opaque"));
    write(branches.upper("opaque/.wh..wh..opq"), "");
    write(branches.upper("opaque/above"), "");
    let union = branches.mount();
    fs::remove_file(union.at("emptied/x")).unwrap();
    fs::remove_dir_all(union.at("hidden")).unwrap();
    mkdir(&union.at("hidden"));
    write(union.at("hidden/new"), "");
    for (name, holds) in
        [("emptied", vec![]), ("hidden", vec!["new"]), ("opaque", vec!["above"]), ("empty", vec![])]
    {
        let to = format!("{name}-moved");
        fs::rename(union.at(name), union.at(&to)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(names(union.at(&to)), holds, "{name}");
        assert!(!exists(union.at(name)), "{name}");
    }
    let before = union.snapshot();
    union.unmount();
    branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
}

pub(crate) fn one_that_lands_on_a_name_with_content_below_is_opaque(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("target"));
    write(branches.lower("target/old"), "");
    mkdir(&branches.lower("whited"));
    write(branches.lower("whited/old"), "");
    let union = branches.mount();
    fs::remove_dir_all(union.at("whited")).unwrap();
    fs::remove_file(union.at("target/old")).unwrap();
    for (from, to) in [("a", "target"), ("b", "whited")] {
        mkdir(&union.at(from));
        write(union.at(from).join("new"), from);
        fs::rename(union.at(from), union.at(to)).unwrap();
        assert_eq!(names(union.at(to)), ["new"]);
        assert!(exists(branches.upper(to).join(".wh..wh..opq")), "{to}");
    }
    let before = union.snapshot();
    union.unmount();
    branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
}

pub(crate) fn one_does_not_replace_what_is_not_empty_or_no_directory(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("full"));
    write(branches.lower("full/x"), "");
    write(branches.lower("file"), "");
    let union = branches.mount();
    mkdir(&union.at("dir"));
    assert_eq!(fs::rename(union.at("dir"), union.at("full")).refusal(), Errno::NOTEMPTY);
    assert_eq!(fs::rename(union.at("dir"), union.at("file")).refusal(), Errno::NOTDIR);
    assert_eq!(fs::rename(union.at("file"), union.at("dir")).refusal(), Errno::ISDIR);
    assert_eq!(names(union.root()), ["dir", "file", "full"]);
}

pub(crate) fn a_file_is_renamed_over_others(mode: Mode) {
    let branches = Branches::two(mode);
    for name in ["a", "b", "c", "d"] {
        write(branches.lower(name), name);
    }
    let lower = branches.all_lower();
    let union = branches.mount();
    write(union.at("new"), "new");
    fs::rename(union.at("a"), union.at("b")).unwrap();
    fs::rename(union.at("new"), union.at("c")).unwrap();
    fs::rename(union.at("d"), union.at("fresh")).unwrap();
    assert_eq!(names(union.root()), ["b", "c", "fresh"]);
    let shown = ["b", "c", "fresh"].map(|name| read(union.at(name)));
    assert_eq!(shown, ["a", "new", "d"]);
    assert_eq!(names_of_branch(branches.path(0)), [".wh.a", ".wh.d", "b", "c", "fresh"]);
    assert_eq!(branches.all_lower(), lower);
}

pub(crate) fn flags_of_a_rename_are_kept_or_refused(mode: Mode) {
    let branches = Branches::two(mode);
    for name in ["a", "b"] {
        write(branches.lower(name), name);
    }
    let union = branches.mount();
    write(union.at("new"), "new");
    let rename = |from: &str, to: &str, flags| rename_with(&union.at(from), &union.at(to), flags);
    assert_eq!(rename("new", "a", RenameFlags::NOREPLACE).refusal(), Errno::EXIST);
    rename("new", "fresh", RenameFlags::NOREPLACE).unwrap();
    rename("a", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read(union.at("a")), read(union.at("b"))), ("b".to_owned(), "a".to_owned()));
    rename("a", "fresh", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read(union.at("a")), read(union.at("fresh"))), ("new".to_owned(), "b".to_owned()));
    assert_eq!(rename("a", "none", RenameFlags::EXCHANGE).refusal(), Errno::NOENT);
    assert_eq!(rename("a", "c", RenameFlags::WHITEOUT).refusal(), Errno::INVAL);
    mkdir(&union.at("dir/sub"));
    rename("dir", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(read(union.at("dir")), "a");
    assert_eq!(names(union.at("b")), ["sub"]);
    let before = union.snapshot();
    union.unmount();
    branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
}

pub(crate) fn a_tree_can_be_deleted_and_made_again(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    let make = |root: &Path, text: &str| {
        for dir in 0..5 {
            mkdir(&root.join(format!("tree/{dir}/sub")));
            for file in 0..5 {
                write(root.join(format!("tree/{dir}/sub/{file}")), text);
            }
        }
    };
    make(&branches.path(1), "one");
    make(&branches.path(2), "two");
    let lower = branches.all_lower();
    let union = branches.mount();
    for round in ["three", "four"] {
        fs::remove_dir_all(union.at("tree")).unwrap();
        assert_eq!(names(union.root()), Vec::<String>::new());
        make(union.root(), round);
        let found: BTreeMap<_, _> = names(union.at("tree/4/sub"))
            .into_iter()
            .map(|name| (name.clone(), read(union.at("tree/4/sub").join(name))))
            .collect();
        assert!(found.len() == 5 && found.values().all(|text| text == round), "{found:?}");
    }
    let before = union.snapshot();
    union.unmount();
    branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
    assert_eq!(branches.all_lower(), lower);
}

pub(crate) fn one_that_is_gone_but_open_is_empty(mode: Mode) {
    for below in [true, false] {
        let branches = Branches::two(mode);
        mkdir(&branches.path(usize::from(below)).join("dir"));
        let union = branches.mount();
        let file = File::open(union.at("dir")).unwrap();
        fs::remove_dir(union.at("dir")).unwrap();
        let listed: io::Result<Vec<_>> = Dir::new(file.try_clone().unwrap())
            .unwrap()
            .map(|entry| Ok(entry?.file_name().to_owned()))
            .collect();
        assert!(listed.is_ok_and(|names| names.iter().all(|name| name.to_bytes().starts_with(b"."))));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        let create = rustix::fs::openat(&file, "x", rustix::fs::OFlags::CREATE, rustix::fs::Mode::RWXU);
        assert_eq!(create.refusal(), Errno::NOENT);
    }
}
