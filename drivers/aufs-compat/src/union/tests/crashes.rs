//! What a crash leaves on the writable branch.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Branches;

#[test]
fn what_is_under_its_own_whiteout_is_not_shown_and_makes_room() {
    let branches = Branches::new(2);
    for name in ["file", "dir/sub"] {
        branches.write(0, name, "half made");
    }
    branches.write(1, "file", "below");
    for name in [".wh.file", ".wh.dir"] {
        branches.write(0, name, "");
    }
    let union = branches.open();
    assert!(union.tree().is_empty());
    union.write_at("file", "made").unwrap();
    union.make_dir("dir").unwrap();
    assert_eq!(union.tree().keys().collect::<Vec<_>>(), ["/dir", "/file"]);
    assert_eq!(union.read_at("file"), "made");
    drop(union);
    assert_eq!(branches.tree().len(), 2);
}

#[test]
fn what_was_being_deleted_or_made_is_cleared_away() {
    let branches = Branches::new(2);
    branches.write(0, ".wh..wh.dir.00ff/sub/file", "being deleted");
    branches.write(0, ".wh..wh.orph/1", "being copied");
    branches.write(0, "kept/.wh..wh.dir.00ff/sub/file", "being deleted");
    branches.write(1, ".wh..wh.dir.00ff", "not ours");
    let union = branches.open();
    assert_eq!(union.tree().keys().collect::<Vec<_>>(), ["/kept"]);
    union.remove("kept").unwrap();
    assert!(!branches.at(0, "kept").exists());
    assert!(!branches.at(0, ".wh..wh.dir.00ff").exists());
    assert!(branches.at(1, ".wh..wh.dir.00ff").exists());
    assert_eq!(fs::read_dir(branches.at(0, ".wh..wh.orph")).unwrap().count(), 0);
}

#[test]
fn names_that_a_pseudo_link_stood_for_are_made_by_the_next_mount() {
    let branches = Branches::new(2);
    branches.write(1, "dir/a", "below");
    fs::create_dir(branches.at(1, "other")).unwrap();
    for name in ["dir/b", "other/c"] {
        fs::hard_link(branches.at(1, "dir/a"), branches.at(1, name)).unwrap();
    }
    let union = branches.open();
    union.write_at("dir/a", "above").unwrap();
    assert_eq!(fs::read_dir(branches.at(0, ".wh..wh.plnk")).unwrap().count(), 1);
    // Nothing is flushed: the process is killed.
    drop(union);
    let union = branches.open();
    for name in ["dir/a", "dir/b", "other/c"] {
        assert_eq!(union.read_at(name), "above", "{name}");
        assert_eq!(fs::metadata(branches.at(0, name)).unwrap().nlink(), 3);
    }
    assert_eq!(fs::read_dir(branches.at(0, ".wh..wh.plnk")).unwrap().count(), 0);
}

#[test]
fn the_only_name_of_data_is_never_deleted() {
    let branches = Branches::new(2);
    branches.write(0, ".wh..wh.plnk/5.6", "somebody's");
    let inode = fs::metadata(branches.at(0, ".wh..wh.plnk/5.6")).unwrap().ino();
    fs::rename(branches.at(0, ".wh..wh.plnk/5.6"), branches.at(0, format!(".wh..wh.plnk/11.{inode}")))
        .unwrap();
    drop(branches.open());
    assert_eq!(fs::read_to_string(branches.at(0, format!(".wh..wh.plnk/11.{inode}"))).unwrap(), "somebody's");
}

#[test]
fn a_file_with_several_names_stays_one_file() {
    let branches = Branches::new(2);
    branches.write(1, "a", "below");
    for name in ["b", "c"] {
        fs::hard_link(branches.at(1, "a"), branches.at(1, name)).unwrap();
    }
    let union = branches.open();
    let number = union.at("a").unwrap().number;
    union.write_at("b", "above").unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!((union.at(name).unwrap().number, union.names_at(name)), (number, 3), "{name}");
        assert_eq!(union.read_at(name), "above", "{name}");
    }
    union.remove("b").unwrap();
    assert_eq!(union.names_at("c"), 2);
    union.move_to("c", "d", 0).unwrap();
    assert_eq!((union.read_at("d"), union.names_at("a")), ("above".to_owned(), 2));
    union.link_to("a", "e").unwrap();
    assert_eq!(union.names_at("d"), 3);
    union.flush_pseudo_links().unwrap();
    let tree = union.tree();
    drop(union);
    let union = branches.open();
    assert_eq!(union.tree(), tree);
    assert_eq!(union.names_at("a"), 3);
}
