//! What hides what.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use mica_conformance::tree::Times;
use rustix::io::Errno;

use crate::common::files::{
    Refusable, chmod, exists, inode, mkdir, mkfifo, names, names_of_branch, read, set_times, symlink, write,
};
use crate::common::{Branches, Mode};

pub(crate) fn a_whiteout_hides_what_is_below_it(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    for name in ["a", "b", "c"] {
        write(branches.path(2).join(name), "below");
    }
    write(branches.path(0).join(".wh.a"), "");
    write(branches.path(1).join(".wh.b"), "");
    let union = branches.mount();
    assert_eq!(names(union.root()), ["c"]);
    for name in ["a", "b"] {
        assert_eq!(fs::symlink_metadata(union.at(name)).refusal(), Errno::NOENT);
    }
    write(union.at("a"), "again");
    write(union.at("b"), "again");
    assert_eq!(names(union.root()), ["a", "b", "c"]);
    assert_eq!(names_of_branch(branches.path(0)), ["a", "b"]);
}

pub(crate) fn a_whiteout_does_not_hide_what_is_above_it(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.upper("a"), "above");
    write(branches.lower(".wh.a"), "");
    let union = branches.mount();
    assert_eq!(read(union.at("a")), "above");
    fs::remove_file(union.at("a")).unwrap();
    assert_eq!(names(union.root()), Vec::<String>::new());
    // Nothing is below, so nothing has to be hidden.
    assert_eq!(names_of_branch(branches.path(0)), Vec::<String>::new());
}

pub(crate) fn a_whiteout_hides_the_same_name_of_its_own_branch(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "beside it");
    write(branches.lower(".wh.a"), "");
    let union = branches.mount();
    assert_eq!(fs::symlink_metadata(union.at("a")).refusal(), Errno::NOENT);
    assert_eq!(names(union.root()), Vec::<String>::new());
}

pub(crate) fn a_whiteout_of_any_mode_size_and_owner_counts(mode: Mode) {
    let branches = Branches::two(mode);
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        write(branches.lower(name), "below");
        let whiteout = branches.upper(format!(".wh.{name}"));
        write(&whiteout, "x".repeat(number));
        chmod(&whiteout, [0o644, 0o777, 0o000][number]);
    }
    let union = branches.mount();
    assert_eq!(names(union.root()), Vec::<String>::new());
}

pub(crate) fn a_whiteout_that_is_no_file_is_an_error(mode: Mode) {
    for upper in [true, false] {
        let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
        let of = branches.path(usize::from(!upper));
        for name in ["dir", "link", "fifo", "good"] {
            write(branches.path(2).join(name), "below");
        }
        mkdir(&of.join(".wh.dir"));
        symlink("x", of.join(".wh.link"));
        mkfifo(of.join(".wh.fifo"));
        let union = branches.mount();
        for name in ["dir", "link", "fifo"] {
            let path = union.at(name);
            assert_eq!(
                fs::symlink_metadata(&path).refusal(),
                Errno::IO,
                "stat {name}, in the upper: {upper}"
            );
            assert_eq!(fs::File::open(&path).refusal(), Errno::IO);
            assert_eq!(fs::create_dir(&path).refusal(), Errno::IO);
            assert_eq!(fs::remove_file(&path).refusal(), Errno::IO);
        }
        assert_eq!(read(union.at("good")), "below");
        assert!(names(union.root()).contains(&"good".to_owned()));
        assert!(names(&of).contains(&".wh.dir".to_owned()));
    }
}

pub(crate) fn a_plain_ro_branch_ignores_whiteouts_and_hides_their_names(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro", "ro+wh"]);
    write(branches.path(1).join(".wh.a"), "");
    mkdir(&branches.path(1).join("dir"));
    write(branches.path(1).join("dir/.wh.b"), "");
    for dir in ["", "dir"] {
        mkdir(&branches.path(2).join(dir));
        write(branches.path(2).join(dir).join("a"), "below");
        write(branches.path(2).join(dir).join("b"), "below");
    }
    let union = branches.mount();
    assert_eq!(names(union.root()), ["a", "b", "dir"]);
    assert_eq!(names(union.at("dir")), ["a", "b"]);
    assert_eq!(read(union.at("a")), "below");
    assert_eq!(fs::symlink_metadata(union.at(".wh.a")).refusal(), Errno::PERM);
}

pub(crate) fn they_are_links_to_one_empty_file(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    for name in ["a", "dir/b"] {
        write(branches.lower(name), "below");
    }
    let union = branches.mount();
    fs::remove_file(union.at("a")).unwrap();
    fs::remove_file(union.at("dir/b")).unwrap();
    let base = fs::symlink_metadata(branches.upper(".wh..wh.aufs")).unwrap();
    assert!(base.is_file());
    assert_eq!((base.mode() & 0o7777, base.len()), (0o444, 0));
    assert_eq!(inode(branches.upper(".wh.a")), base.ino());
    assert_eq!(inode(branches.upper("dir/.wh.b")), base.ino());
    assert_eq!(base.nlink(), 3);
}

pub(crate) fn there_can_be_more_than_a_file_can_have_names(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    write(branches.lower("b"), "below");
    let union = branches.mount();
    let (base, links) = (branches.upper(".wh..wh.aufs"), branches.beside("links"));
    mkdir(&links);
    let most = (0..70_000).find(|number| fs::hard_link(&base, links.join(number.to_string())).is_err());
    if most.is_none() {
        // Not a promise of ours: ext4 stops at 65,000.
        eprintln!("skip: aufs-compat/links-of-whiteouts: the file system gives a file any number of names");
        return;
    }
    fs::remove_file(union.at("a")).unwrap();
    fs::remove_file(union.at("b")).unwrap();
    assert_eq!(names(union.root()), Vec::<String>::new());
    let whiteout = fs::symlink_metadata(branches.upper(".wh.a")).unwrap();
    assert!(whiteout.is_file() && whiteout.len() == 0);
    fs::remove_dir_all(links).unwrap();
}

pub(crate) fn deleting_what_is_only_above_leaves_none(mode: Mode) {
    let branches = Branches::two(mode);
    let union = branches.mount();
    write(union.at("file"), "new");
    mkdir(&union.at("dir/sub"));
    symlink("x", union.at("link"));
    fs::remove_file(union.at("file")).unwrap();
    fs::remove_file(union.at("link")).unwrap();
    fs::remove_dir_all(union.at("dir")).unwrap();
    assert_eq!(names_of_branch(branches.path(0)), Vec::<String>::new());
}

pub(crate) fn a_name_that_was_deleted_can_be_made_again_as_anything(mode: Mode) {
    let branches = Branches::two(mode);
    let all = ["file", "dir", "link", "fifo", "moved", "linked"];
    for name in all {
        write(branches.lower(name), "below");
    }
    write(branches.lower("source"), "source");
    let lower = branches.all_lower();
    let union = branches.mount();
    for name in all {
        fs::remove_file(union.at(name)).unwrap();
        assert!(exists(branches.upper(format!(".wh.{name}"))));
    }
    write(union.at("file"), "again");
    mkdir(&union.at("dir"));
    symlink("again", union.at("link"));
    mkfifo(union.at("fifo"));
    fs::hard_link(union.at("source"), union.at("linked")).unwrap();
    fs::rename(union.at("source"), union.at("moved")).unwrap();
    for name in all {
        assert!(!exists(branches.upper(format!(".wh.{name}"))), "the whiteout of {name}");
    }
    assert!(exists(branches.upper(".wh.source")));
    assert_eq!(read(union.at("file")), "again");
    assert_eq!(read(union.at("linked")), "source");
    let before = union.snapshot();
    union.unmount();
    branches.mount().snapshot().expect(&before, Times::OfAll).unwrap();
    assert_eq!(branches.all_lower(), lower);
}

pub(crate) fn a_directory_made_over_one_is_opaque(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir/sub"));
    write(branches.lower("dir/old"), "below");
    let union = branches.mount();
    fs::remove_dir_all(union.at("dir")).unwrap();
    assert!(exists(branches.upper(".wh.dir")) && !exists(branches.upper("dir")));
    fs::create_dir(union.at("dir")).unwrap();
    assert_eq!(names(union.at("dir")), Vec::<String>::new());
    assert!(!exists(branches.upper(".wh.dir")));
    let mark = fs::symlink_metadata(branches.upper("dir/.wh..wh..opq")).unwrap();
    assert!(mark.is_file() && mark.len() == 0);
    write(union.at("dir/new"), "new");
    union.unmount();
    let union = branches.mount();
    assert_eq!(names(union.at("dir")), ["new"]);
    assert_eq!(fs::symlink_metadata(union.at("dir/old")).refusal(), Errno::NOENT);
    // Nothing below shows, so a name in it needs no whiteout.
    fs::remove_file(union.at("dir/new")).unwrap();
    assert_eq!(names(branches.upper("dir")), [".wh..wh..opq"]);
}

pub(crate) fn an_opaque_directory_stops_on_each_branch(mode: Mode) {
    for opaque in [0, 1] {
        let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
        for number in 0..3 {
            mkdir(&branches.path(number).join("dir"));
            write(branches.path(number).join(format!("dir/{number}")), "");
        }
        // As in a layer that came from a tarball: without the file that whiteouts are links to.
        write(branches.path(opaque).join("dir/.wh..wh..opq"), "");
        let union = branches.mount();
        let expected: Vec<String> = (0..=opaque).map(|number| number.to_string()).collect();
        assert_eq!(names(union.at("dir")), expected);
        assert_eq!(fs::symlink_metadata(union.at("dir/2")).refusal(), Errno::NOENT);
    }
}

pub(crate) fn the_root_of_a_branch_can_be_opaque(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    write(branches.path(1).join(".wh..wh..opq"), "");
    write(branches.path(1).join("a"), "");
    write(branches.path(2).join("b"), "");
    assert_eq!(names(branches.mount().root()), ["a"]);
}

pub(crate) fn what_is_no_directory_hides_directories_and_the_other_way_round(mode: Mode) {
    let branches = Branches::new(mode, &["rw", "ro+wh", "ro+wh"]);
    write(branches.path(1).join("file"), "above");
    write(branches.path(2).join("dir"), "below");
    for (number, dir) in [(1, "dir"), (2, "file"), (0, "skips"), (2, "skips")] {
        mkdir(&branches.path(number).join(dir));
        write(branches.path(number).join(dir).join(number.to_string()), "");
    }
    // Between two directories of one name lies something else: the one below is not of the union.
    write(branches.path(1).join("skips"), "between");
    let union = branches.mount();
    assert_eq!(read(union.at("file")), "above");
    assert_eq!(names(union.at("dir")), ["1"]);
    assert_eq!(names(union.at("skips")), ["0"]);
    fs::remove_dir_all(union.at("dir")).unwrap();
    assert_eq!(names(union.root()), ["file", "skips"]);
}

pub(crate) fn a_directory_with_only_whiteouts_is_empty(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir/sub"));
    write(branches.lower("dir/a"), "");
    let union = branches.mount();
    assert_eq!(fs::remove_dir(union.at("dir")).refusal(), Errno::NOTEMPTY);
    fs::remove_file(union.at("dir/a")).unwrap();
    assert_eq!(fs::remove_dir(union.at("dir")).refusal(), Errno::NOTEMPTY);
    fs::remove_dir(union.at("dir/sub")).unwrap();
    assert_eq!(names(branches.upper("dir")), [".wh.a", ".wh.sub"]);
    fs::remove_dir(union.at("dir")).unwrap();
    assert_eq!(names_of_branch(branches.path(0)), [".wh.dir"]);
    assert_eq!(names(branches.lower("dir")), ["a", "sub"]);
}

pub(crate) fn a_deletion_changes_the_time_of_the_directory_that_shows_it(mode: Mode) {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    write(branches.lower("dir/a"), "");
    set_times(branches.lower("dir"), 1000, 2000);
    let union = branches.mount();
    assert_eq!(fs::metadata(union.at("dir")).unwrap().mtime(), 2000);
    fs::remove_file(union.at("dir/a")).unwrap();
    assert!(fs::metadata(union.at("dir")).unwrap().mtime() > 1_700_000_000);
}

pub(crate) fn a_writable_branch_has_the_places_that_aufs_makes(mode: Mode) {
    let branches = Branches::two(mode);
    let union = branches.mount();
    for name in [".wh..wh.plnk", ".wh..wh.orph"] {
        let meta = fs::symlink_metadata(branches.upper(name)).unwrap();
        assert!(meta.is_dir(), "{name}");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o700, "{name}");
    }
    assert_eq!(fs::symlink_metadata(branches.upper(".wh..wh.aufs")).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(names(union.root()), Vec::<String>::new());
    assert_eq!(names(branches.path(1)), Vec::<String>::new());
}
