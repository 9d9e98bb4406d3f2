//! Random branches and edits of their union, beside the tree that AUFS's rules make of the branches.
//!
//! `PROPTEST_CASES` says how many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod item;
mod merge;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mica_conformance::tree::{Snapshot, Times};
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};

use common::edits::{Edit, edits};
use common::files::{mkdir, names};
use common::{Branches, Mode, Test, tests};
use item::{Item, items};

/// One for a name, so that the macro finds it.
mod unions {
    pub(crate) use super::show_what_the_rules_say;
}

const TESTS: &[Test] = tests![unions::show_what_the_rules_say];
const CASES: u32 = 60;
const ATTRIBUTES: [&str; 4] = ["rw", "ro+wh", "ro+wh", "ro"];

fn main() -> ExitCode {
    common::main(TESTS)
}

fn show_what_the_rules_say(mode: Mode) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, max_shrink_time: 30_000, failure_persistence: None, ..Config::default() };
    let case = (vec(items(), 2..5), vec(edits(), 0..40));
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&case, |(branches, edits)| {
        check(mode, &branches, &edits);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn check(mode: Mode, items: &[Vec<Item>], edits: &[Edit]) {
    let branches = Branches::new(mode, &ATTRIBUTES[..items.len()]);
    for (number, items) in items.iter().enumerate() {
        item::make(&branches.path(number), items);
    }
    let model = branches.beside("model");
    mkdir(&model);
    let trees = trees(&branches, items.len());
    merge::merge(&trees, &model);
    let lower = branches.all_lower();
    let odd = whiteouts(&branches.path(0)).into_values().collect();

    let union = branches.mount();
    compare(&union.snapshot(), &model, "as mounted");
    for (clock, edit) in edits.iter().enumerate() {
        edit.play(union.root(), &model, clock as i64);
    }
    compare(&union.snapshot(), &model, "as changed");
    union.unmount();

    assert_eq!(branches.all_lower(), lower, "a lower branch was written");
    in_form(&branches.path(0), &odd);
    let again = branches.beside("again");
    mkdir(&again);
    merge::merge(&trees, &again);
    compare(&Snapshot::of(&again).unwrap(), &model, "by the rules for the branches");
    let union = branches.mount();
    compare(&union.snapshot(), &model, "as mounted again");
    union.unmount();
}

fn trees(branches: &Branches, count: usize) -> Vec<merge::Branch> {
    let branch =
        |number| merge::Branch { root: branches.path(number), whiteouts: ATTRIBUTES[number] != "ro" };
    (0..count).map(branch).collect()
}

fn compare(found: &Snapshot, model: &Path, when: &str) {
    let expected = Snapshot::of(model).unwrap();
    if let Err(difference) = found.expect(&expected, Times::OfFiles) {
        panic!("{when}: {difference:?}");
    }
}

/// The whiteouts and marks of a branch by their paths, with their inode numbers.
fn whiteouts(branch: &Path) -> BTreeMap<PathBuf, u64> {
    let all = Snapshot::of(branch).unwrap().nodes.into_iter();
    let reserved = all.filter(|(path, _)| path.file_name().is_some_and(common::edits::reserved));
    reserved.map(|(path, node)| (path, node.inode)).collect()
}

/// Fails unless a branch that was unmounted is as AUFS leaves one. The `old` whiteouts were there before.
fn in_form(branch: &Path, old: &BTreeSet<u64>) {
    for place in [".wh..wh.plnk", ".wh..wh.orph"] {
        assert_eq!(names(branch.join(place)), Vec::<String>::new(), "{place}");
    }
    let base = fs::symlink_metadata(branch.join(".wh..wh.aufs")).unwrap();
    assert_eq!((base.len(), base.mode()), (0, 0o100_444), "the file that whiteouts are links to");
    for (path, inode) in whiteouts(branch) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.parent() == Some(Path::new("")) && [".wh..wh.plnk", ".wh..wh.orph"].contains(&name.as_str()) {
            continue;
        }
        let known = ["a", "b", "c", ".wh..opq", ".wh.aufs"].map(|of| format!(".wh.{of}"));
        assert!(known.contains(&name), "{} was left", path.display());
        if name != ".wh..wh..opq" && !old.contains(&inode) {
            assert_eq!(inode, base.ino(), "{} is no link to the others", path.display());
        }
    }
}
