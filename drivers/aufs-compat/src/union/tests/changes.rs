//! Changes, compared with the same changes to a plain directory.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rustix::io::Errno;
use tempfile::TempDir;

use super::{Branches, Tree};

#[derive(Clone, Debug)]
enum Change {
    Write(String),
    MakeDir(String),
    Remove(String),
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof!["a", "b", "c"];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => path().prop_map(Change::Write),
        3 => path().prop_map(Change::MakeDir),
        4 => path().prop_map(Change::Remove),
        4 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        1 => (path(), path()).prop_map(|(from, to)| Change::Exchange(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Change::Link(from, to)),
    ]
}

/// Files and directories of lower branches: where there is a directory already, no file is written.
fn below() -> impl Strategy<Value = Vec<(usize, String, bool)>> {
    prop::collection::vec((1..4_usize, path(), any::<bool>()), 0..20)
}

fn plain(change: &Change, root: &Path, text: &str) -> Result<(), Errno> {
    let at = |path: &String| root.join(path);
    let rename = |from: &String, to: &String, flags| {
        rustix::fs::renameat_with(rustix::fs::CWD, at(from), rustix::fs::CWD, at(to), flags)
    };
    let told = |result: std::io::Result<()>| result.map_err(|e| Errno::from_io_error(&e).unwrap());
    match change {
        Change::Write(path) => told(fs::write(at(path), text)),
        Change::MakeDir(path) => told(fs::create_dir(at(path))),
        Change::Remove(path) if at(path).is_dir() => told(fs::remove_dir(at(path))),
        Change::Remove(path) => told(fs::remove_file(at(path))),
        Change::Rename(from, to) => rename(from, to, rustix::fs::RenameFlags::empty()),
        Change::Exchange(from, to) => rename(from, to, rustix::fs::RenameFlags::EXCHANGE),
        Change::Link(from, to) => told(fs::hard_link(at(from), at(to))),
    }
}

fn copy(tree: &Tree, to: &Path) {
    for (path, text) in tree {
        let path = to.join(&path[1..]);
        match text.as_str() {
            "a directory" => fs::create_dir(path).unwrap(),
            text => fs::write(path, text).unwrap(),
        }
    }
}

fn read(dir: &Path, prefix: &str, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            tree.insert(path.clone(), "a directory".to_owned());
            read(&entry.path(), &path, tree);
        } else {
            tree.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_union_changes_as_a_plain_directory_does(
        below in below(),
        changes in prop::collection::vec(change(), 0..40),
    ) {
        let branches = Branches::new(4);
        for (branch, path, directory) in &below {
            // What cannot be made there, because something else is, is left out.
            if *directory {
                let _ = fs::create_dir_all(branches.at(*branch, path));
            } else if fs::create_dir_all(branches.at(*branch, path).parent().unwrap()).is_ok() {
                let _ = fs::write(branches.at(*branch, path), format!("{branch}:{path}"));
            }
        }
        let union = branches.open();
        let model = TempDir::new().unwrap();
        copy(&union.tree(), model.path());
        for (number, change) in changes.iter().enumerate() {
            let text = number.to_string();
            let done = match change {
                Change::Write(path) => union.write_at(path, &text),
                Change::MakeDir(path) => union.make_dir(path),
                Change::Remove(path) => union.remove(path),
                Change::Rename(from, to) => union.move_to(from, to, 0),
                Change::Exchange(from, to) => union.move_to(from, to, 2),
                Change::Link(from, to) => union.link_to(from, to),
            };
            // Whoever renames a directory that is below is to copy it.
            if done != Err(Errno::XDEV) {
                let expected = plain(change, model.path(), &text);
                prop_assert_eq!(done.is_ok(), expected.is_ok(), "{:?}: {:?}, {:?}", change, done, expected);
            }
            let mut expected = Tree::new();
            read(model.path(), "", &mut expected);
            prop_assert_eq!(&union.tree(), &expected, "after {:?}", change);
        }
        let before = union.tree();
        union.flush_pseudo_links().unwrap();
        drop(union);
        prop_assert_eq!(branches.tree(), before, "opened anew");
    }
}
