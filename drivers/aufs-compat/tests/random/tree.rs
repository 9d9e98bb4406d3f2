//! Threads that change a tree at once, each its own names in directories that all share.

use std::fs;
use std::path::Path;
use std::thread;

use mica_conformance::tree::{Snapshot, Times};

use crate::Game;
use crate::common::edits::Edit;
use crate::common::files::{Dice, mkdir};
use crate::common::{Branches, Mode};

const THREADS: usize = 4;
/// How many edits each thread makes before the trees are compared.
const EDITS: i64 = 150;
const BRANCHES: [&str; 4] = ["rw", "ro+wh", "ro+wh", "ro+wh"];
/// Directories that nobody deletes.
const SHARED: [&str; 2] = ["", "shared"];

pub(crate) fn a_tree_is_what_was_made_of_it(mode: Mode) {
    let mut game = Game::new("a tree");
    let mut clock = 0;
    let (mut rounds, mut compared) = (0, 0);
    while game.goes_on() {
        let branches = Branches::new(mode, &BRANCHES);
        let plain = branches.beside("plain");
        mkdir(&plain);
        mkdir(&plain.join("shared"));
        mkdir(&branches.path(3).join("shared"));
        for _ in 0..BRANCHES.len() {
            let below = branches.all_lower();
            let options = *game.dice.pick(&["", "stale_reads", "volatile"]);
            let union = branches.mount_with(options);
            for _ in 0..2 {
                let seeds: Vec<u64> = (0..THREADS).map(|_| game.dice.next()).collect();
                change(&seeds, union.root(), &plain, clock);
                clock += EDITS * THREADS as i64;
                compare(
                    &union.snapshot(),
                    &plain,
                    &format!("as changed by {seeds:?}, with options '{options}'"),
                );
                compared += 1;
            }
            union.unmount();
            assert_eq!(branches.all_lower(), below, "a lower branch was written");
            compare(&branches.mount().snapshot(), &plain, "as mounted again");
            freeze(&branches);
        }
        rounds += 1;
    }
    eprintln!("a tree: {rounds} times {} branches, {compared} comparisons", BRANCHES.len());
}

/// Has each thread make its edits in both trees.
fn change(seeds: &[u64], union: &Path, plain: &Path, clock: i64) {
    thread::scope(|scope| {
        for (number, &seed) in seeds.iter().enumerate() {
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                let tops: Vec<String> = (0..6).map(|name| top(number, name)).collect();
                let first = clock + EDITS * number as i64;
                for now in first..first + EDITS {
                    Edit::thrown(&mut dice, &tops).play(union, plain, now);
                }
            });
        }
    });
}

/// A name that belongs to one thread, in one of the directories that all share.
fn top(thread: usize, name: usize) -> String {
    let dir = SHARED[name % SHARED.len()];
    if dir.is_empty() { format!("{thread}-{name}") } else { format!("{dir}/{thread}-{name}") }
}

fn compare(found: &Snapshot, plain: &Path, when: &str) {
    let expected = Snapshot::of(plain).unwrap();
    if let Err(difference) = found.expect(&expected, Times::OfFiles) {
        panic!("{when}: {difference:?}");
    }
}

/// Puts an empty branch on top; the lowest one, which is empty still, goes.
fn freeze(branches: &Branches) {
    let last = BRANCHES.len() - 1;
    if Snapshot::of(&branches.path(last)).unwrap().nodes.len() > 2 {
        return;
    }
    fs::remove_dir_all(branches.path(last)).unwrap();
    for number in (0..last).rev() {
        fs::rename(branches.path(number), branches.path(number + 1)).unwrap();
    }
    mkdir(&branches.path(0));
    // It was in the branch that went.
    mkdir(&branches.path(last).join("shared"));
}
