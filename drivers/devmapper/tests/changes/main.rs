//! What a layer changed, told by the pool's metadata and the inodes in the blocks that differ, is what comparing the
//! whole trees tells.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cheap;
#[path = "../common/mod.rs"]
mod common;
mod edits;
mod sys;

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

use common::Place;
use edits::edit;
use mica_archive::diff;
use mica_archive::writer::Writer;
use mica_conformance::tree::Snapshot;
use mica_core::{Chain, Changes, Committed, Layer, MountOptions, Trees};
use mica_mount::LazyTrees;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

#[test]
fn thin_metadata_tells_the_changes_that_whole_trees_tell_on_ext4() {
    random_scripts(&[("base_size", "64M")]);
}

#[test]
fn thin_metadata_tells_the_changes_that_whole_trees_tell_on_xfs() {
    random_scripts(&[("filesystem", "xfs")]);
}

/// Layers on each other, each edited by a script, looked at while it is mounted and once it is committed.
fn random_scripts(options: &[(&str, &str)]) {
    let place = Place::new(options);
    let base = place.layer("base", None, seed);
    let config = Config { cases: 3, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (run, tried, made) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let result = runner.run(&vec(vec(edit(), 1..60), 1..4), |layers| {
        run.set(run.get() + 1);
        let mut chain = vec![base.clone()];
        for (number, edits) in layers.iter().enumerate() {
            let parent = chain.last().unwrap();
            let layer = place.create(&format!("run{}-{number}", run.get()), Some(parent));
            let held = place.write(&layer);
            let tree = held.tree().path();
            tried.set(tried.get() + edits.len());
            made.set(made.get() + edits::play(edits, tree));
            let live = Live { layer: tree, parent: read(&place, parent).unwrap() };
            agree(&place, layer.chain(), &live).map_err(|why| fault(number, "while it is mounted", &why))?;
            live.parent.close().unwrap();
            held.close().unwrap();
            let layer = place.store.commit(layer).unwrap();
            let trees = LazyTrees::new(|| read(&place, &layer), || read(&place, parent).map(Some));
            agree(&place, layer.chain(), &trees).map_err(|why| fault(number, "committed", &why))?;
            trees.close().unwrap();
            chain.push(layer);
        }
        for layer in chain[1..].iter().rev() {
            place.store.remove(layer.id()).unwrap();
        }
        Ok(())
    });
    result.unwrap();
    // Scripts that do nothing would find nothing.
    assert!(made.get() * 2 > tried.get(), "{} of {} edits were made", made.get(), tried.get());
}

fn seed(tree: &Path) {
    for dir in ["a/b/c/d", "a/e", "f/g", "h"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    for (number, dir) in ["", "a", "a/b", "a/b/c", "a/b/c/d", "a/e", "f", "f/g"].into_iter().enumerate() {
        for name in 0..3 {
            fs::write(tree.join(dir).join(format!("n{name}")), vec![number as u8; name * 7000 + 1]).unwrap();
        }
    }
    fs::hard_link(tree.join("a/n0"), tree.join("f/g/linked")).unwrap();
    fs::hard_link(tree.join("a/b/n0"), tree.join("a/b/linked")).unwrap();
}

fn fault(layer: usize, when: &str, why: &str) -> TestCaseError {
    TestCaseError::fail(format!("layer {layer}, {when}: {why}"))
}

/// A layer that is mounted for writing, beside its parent.
struct Live<'a> {
    layer: &'a Path,
    parent: mica_mount::Held,
}

impl Trees for Live<'_> {
    fn layer(&self) -> mica_core::Result<&Path> {
        Ok(self.layer)
    }

    fn parent(&self) -> mica_core::Result<Option<&Path>> {
        Ok(Some(self.parent.tree().path()))
    }
}

fn read(place: &Place, layer: &Layer<Committed>) -> mica_core::Result<mica_mount::Held> {
    mica_mount::Held::open(place.store.read(layer, &MountOptions::default())?, &place.mounter())
}

/// Says where the driver's answer gives another diff than whole trees do.
fn agree(place: &Place, chain: Chain<'_>, trees: &dyn Trees) -> Result<(), String> {
    let told = place.store.driver().changes(chain, trees).unwrap();
    let whole = Changes::Compare { only: None };
    if told == whole {
        return Err("the driver fell back to whole trees".to_owned());
    }
    let list = |changes| diff::changes(changes, trees, &|_| false).unwrap();
    let (told_list, whole_list) = (list(&told), list(&whole));
    if told_list != whole_list {
        let without = |some: &[diff::Change], others: &[diff::Change]| -> Vec<String> {
            let more = some.iter().filter(|change| !others.contains(change));
            more.map(|change| format!("{:?} {}", change.kind, change.path.escape_ascii())).collect()
        };
        let (missing, more) = (without(&whole_list, &told_list), without(&told_list, &whole_list));
        return Err(format!("the driver does not tell {missing:?}, and tells {more:?}"));
    }
    let tarball = |changes| {
        let mut archive = Writer::new(Vec::new());
        diff::write(changes, trees, &|_| false, &mut archive).unwrap();
        archive.finish().unwrap()
    };
    if tarball(&told) != tarball(&whole) {
        return Err("the tarballs are not the same".to_owned());
    }
    // And neither misses what can be seen.
    let told: HashSet<Vec<u8>> = told_list.into_iter().map(|change| change.path).collect();
    // The trees have no names but links in /proc, and it is the directories behind them that are looked at.
    // That a file has got another first name is no change of its other names.
    let snapshot = |tree: &Path| {
        let mut snapshot = Snapshot::of(&tree.join(".")).unwrap();
        snapshot.nodes.values_mut().for_each(|node| node.same_as = None);
        snapshot
    };
    let seen = snapshot(trees.layer().unwrap()).changed(&snapshot(trees.parent().unwrap().unwrap()));
    let deleted =
        |path: &Path| path.ancestors().any(|path| told.contains(path.as_os_str().as_encoded_bytes()));
    // The root is in no list.
    match seen.iter().find(|path| **path != Path::new("") && !deleted(path)) {
        Some(path) => Err(format!("the change of {} is not told", path.display())),
        None => Ok(()),
    }
}
