//! Long random use of a union, beside something that is known to be right: one file beside its content in memory, and a tree
//! beside a plain directory.
//!
//! Each runs for ten seconds, or for `MICA_RANDOM_SECONDS`, from a seed that it prints, or from `MICA_RANDOM_SEED`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod file;
mod tree;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::files::Dice;
use common::{Test, tests};

const TESTS: &[Test] = tests![file::one_file_is_what_was_written_to_it, tree::a_tree_is_what_was_made_of_it];

fn main() -> ExitCode {
    common::main(TESTS)
}

/// How long to go on, and the dice.
struct Game {
    dice: Dice,
    end: Instant,
}

impl Game {
    fn new(name: &str) -> Self {
        let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000_000;
        let seed = variable("MICA_RANDOM_SEED").unwrap_or_else(now);
        let seconds = variable("MICA_RANDOM_SECONDS").unwrap_or(10);
        eprintln!("{name}: MICA_RANDOM_SEED={seed}, for {seconds} s");
        Self { dice: Dice::new(seed), end: Instant::now() + Duration::from_secs(seconds) }
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }
}
