//! Files with several names.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD};

use crate::common::files::{
    append, chmod, exists, inode, mkdir, names, names_of_branch, read, set_xattr, write,
};
use crate::common::{Branches, Mode, Union};

/// A file of the lower branch with the names `a`, `dir/b` and `c`.
fn three_names(mode: Mode) -> Branches {
    let branches = Branches::two(mode);
    mkdir(&branches.lower("dir"));
    write(branches.lower("a"), "below");
    fs::hard_link(branches.lower("a"), branches.lower("dir/b")).unwrap();
    fs::hard_link(branches.lower("a"), branches.lower("c")).unwrap();
    branches
}

fn shown(union: &Union, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| read(union.at(name))).collect()
}

fn one_file(root: &Path, names: &[&str]) -> bool {
    names.iter().all(|name| inode(root.join(name)) == inode(root.join(names[0])))
}

const THREE: [&str; 3] = ["a", "dir/b", "c"];

pub(crate) fn names_of_a_lower_file_are_one_file(mode: Mode) {
    let branches = three_names(mode);
    let union = branches.mount();
    assert!(one_file(union.root(), &THREE));
    assert_eq!(fs::metadata(union.at("a")).unwrap().nlink(), 3);
}

pub(crate) fn names_stay_one_file_across_a_copy_up(mode: Mode) {
    let branches = three_names(mode);
    let lower = branches.all_lower();
    let union = branches.mount();
    let reader = File::open(union.at("c")).unwrap();
    let number = inode(union.at("a"));
    append(union.at("dir/b"), "+above");
    assert_eq!(shown(&union, &THREE), ["below+above"; 3]);
    assert_eq!(crate::common::files::content(&reader), b"below+above");
    assert!(one_file(union.root(), &THREE));
    assert_eq!(inode(union.at("a")), number);
    assert_eq!(fs::metadata(union.at("a")).unwrap().nlink(), 3);
    append(union.at("a"), "!");
    chmod(union.at("c"), 0o600);
    assert_eq!(shown(&union, &THREE), ["below+above!"; 3]);
    assert_eq!(fs::metadata(union.at("dir/b")).unwrap().mode() & 0o777, 0o600);
    union.forget();
    assert_eq!(shown(&union, &THREE), ["below+above!"; 3]);
    assert!(one_file(union.root(), &THREE));
    assert_eq!(inode(union.at("a")), number);
    assert_eq!(branches.all_lower(), lower);
}

pub(crate) fn names_are_all_made_at_the_unmount(mode: Mode) {
    let branches = three_names(mode);
    let lower = branches.all_lower();
    let union = branches.mount();
    append(union.at("dir/b"), "+above");
    let kept = names(branches.upper(".wh..wh.plnk"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    let number = format!("{}.{}", inode(union.at("a")), inode(branches.upper("dir/b")));
    assert_eq!(kept, [number]);
    union.unmount();
    assert_eq!(names(branches.upper(".wh..wh.plnk")), Vec::<String>::new());
    assert!(one_file(&branches.path(0), &THREE));
    assert_eq!(fs::metadata(branches.upper("a")).unwrap().nlink(), 3);
    let union = branches.mount();
    assert_eq!(shown(&union, &THREE), ["below+above"; 3]);
    assert!(one_file(union.root(), &THREE));
    assert_eq!(branches.all_lower(), lower);
}

pub(crate) fn a_name_that_was_deleted_is_not_made_again(mode: Mode) {
    let branches = three_names(mode);
    let union = branches.mount();
    append(union.at("dir/b"), "+above");
    fs::remove_file(union.at("c")).unwrap();
    fs::rename(union.at("a"), union.at("moved")).unwrap();
    assert_eq!(shown(&union, &["moved", "dir/b"]), ["below+above"; 2]);
    assert!(one_file(union.root(), &["moved", "dir/b"]));
    let before = union.snapshot();
    union.unmount();
    assert_eq!(names_of_branch(branches.path(0)), [".wh.a", ".wh.c", "dir", "moved"]);
    let union = branches.mount();
    let after = union.snapshot();
    assert_eq!(names(union.root()), ["dir", "moved"]);
    after.expect(&before, mica_conformance::tree::Times::OfFiles).unwrap();
}

pub(crate) fn a_file_outlives_the_name_by_which_it_was_copied(mode: Mode) {
    let branches = three_names(mode);
    let union = branches.mount();
    append(union.at("dir/b"), "+above");
    fs::remove_file(union.at("dir/b")).unwrap();
    assert_eq!(shown(&union, &["a", "c"]), ["below+above"; 2]);
    append(union.at("c"), "!");
    union.forget();
    assert_eq!(shown(&union, &["a", "c"]), ["below+above!"; 2]);
    union.unmount();
    let union = branches.mount();
    assert_eq!(shown(&union, &["a", "c"]), ["below+above!"; 2]);
    assert!(one_file(union.root(), &["a", "c"]));
    assert!(!exists(union.at("dir/b")));
}

pub(crate) fn deleting_every_name_leaves_no_file(mode: Mode) {
    let branches = three_names(mode);
    let union = branches.mount();
    append(union.at("dir/b"), "+above");
    let open = File::open(union.at("a")).unwrap();
    for name in THREE {
        fs::remove_file(union.at(name)).unwrap();
    }
    assert_eq!(crate::common::files::content(&open), b"below+above");
    drop(open);
    union.unmount();
    assert_eq!(names(branches.upper(".wh..wh.plnk")), Vec::<String>::new());
    assert_eq!(names(branches.mount().root()), ["dir"]);
}

pub(crate) fn a_new_name_of_a_lower_file_is_the_same_file(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    let union = branches.mount();
    let number = inode(union.at("a"));
    let open = File::options().read(true).write(true).open(union.at("a")).unwrap();
    fs::hard_link(union.at("a"), union.at("b")).unwrap();
    open.write_all_at(b"B", 0).unwrap();
    assert_eq!(shown(&union, &["a", "b"]), ["Below"; 2]);
    assert!(one_file(union.root(), &["a", "b"]));
    assert_eq!(inode(union.at("b")), number);
    assert_eq!(fs::metadata(union.at("a")).unwrap().nlink(), 2);
    drop(open);
    union.unmount();
    assert!(one_file(&branches.path(0), &["a", "b"]));
}

pub(crate) fn links_of_other_kinds_stay_links(mode: Mode) {
    let branches = Branches::two(mode);
    crate::common::files::mkfifo(branches.lower("fifo"));
    crate::common::files::symlink("x", branches.lower("link"));
    for name in ["fifo", "link"] {
        let other = format!("{name}-2");
        rustix::fs::linkat(CWD, branches.lower(name), CWD, branches.lower(other), AtFlags::empty()).unwrap();
    }
    let union = branches.mount();
    for name in ["fifo", "link"] {
        let other = format!("{name}-2");
        set_xattr(union.at(name), "trusted.x", b"1");
        assert_eq!(crate::common::files::xattr(union.at(&other), "trusted.x").unwrap(), b"1");
        assert!(one_file(union.root(), &[name, &other]));
    }
    union.unmount();
    assert!(one_file(&branches.path(0), &["fifo", "fifo-2"]));
    assert!(one_file(&branches.path(0), &["link", "link-2"]));
}

pub(crate) fn after_a_crash_the_names_are_one_file_again(mode: Mode) {
    let branches = three_names(mode);
    let union = branches.mount();
    append(union.at("dir/b"), "+above");
    union.kill();
    drop(union);
    assert!(!exists(branches.upper("a")));
    let union = branches.mount();
    assert_eq!(shown(&union, &THREE), ["below+above"; 3]);
    assert!(one_file(union.root(), &THREE));
    union.unmount();
    assert_eq!(names(branches.upper(".wh..wh.plnk")), Vec::<String>::new());
    assert!(one_file(&branches.path(0), &THREE));
}

pub(crate) fn what_a_crash_left_of_unknown_files_keeps_its_data(mode: Mode) {
    let branches = Branches::two(mode);
    write(branches.lower("a"), "below");
    let kept = branches.upper(".wh..wh.plnk");
    mkdir(&kept);
    chmod(&kept, 0o700);
    write(kept.join("987654321.123456789"), "nobody's");
    write(kept.join("no number"), "nor this");
    let union = branches.mount();
    assert_eq!(names(union.root()), ["a"]);
    assert_eq!(read(union.at("a")), "below");
    union.unmount();
    let found: Vec<String> = names(&kept).iter().map(|name| read(kept.join(name))).collect();
    assert_eq!(found, ["nobody's", "nor this"]);
}
