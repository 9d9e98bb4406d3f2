//! Random edits, layer upon layer. A failure shows the shortest script that was found to fail.

use mica_archive::diff;
use mica_archive::writer::Writer;
use mica_core::{Committed, Layer};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::list;
use crate::bench::{Bench, id};
use crate::difference::{check_loosely, with_changes};
use crate::files::mkdir;
use crate::members::apply_tar;
use crate::outcome::{Doing, Stop, Verdict};
use crate::patience::Patience;
use crate::script::{Allowed, Script, play, scripts};
use crate::tree::{Snapshot, Times};

list! {
    "random-edits" random_edits =
        "whatever is done in a Write tree, it answers and shows what a plain directory does, but for what posix does not claim";
    "random-changes" random_changes =
        "whatever was done, changes lead to all of it, and make the same tree of a sibling";
}

/// How many scripts are played on the slowest host.
const LEAST: usize = 4;

fn random_edits(bench: Bench<'_>) -> Verdict {
    for_scripts(&bench, 32, true, |_, _, _| Ok(()))
}

fn random_changes(bench: Bench<'_>) -> Verdict {
    for_scripts(&bench, 16, false, changes_make_the_same)
}

/// Plays up to so many scripts, each beside a plain directory, and checks each layer once it is committed.
fn for_scripts(
    bench: &Bench<'_>,
    count: u32,
    hard_links: bool,
    check: impl Fn(&Bench<'_>, &Layer<Committed>, Option<&Layer<Committed>>) -> Verdict,
) -> Verdict {
    let config =
        Config { cases: count, max_shrink_iters: 300, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let run = std::cell::Cell::new(0);
    let patience = std::cell::RefCell::new(Patience::at_least(LEAST));
    let result = runner.run(&scripts(hard_links), |script| {
        if !patience.borrow_mut().lasts() {
            return Ok(());
        }
        run.set(run.get() + 1);
        play_script(bench, &format!("run-{}", run.get()), &script, &check).map_err(|stop| match stop {
            Stop::Failed(text) => TestCaseError::fail(text),
            Stop::Skipped(reason) => TestCaseError::reject(reason),
        })
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, script)) => Err(Stop::failed(format!("{reason}\n  after {script:#?}"))),
        Err(TestError::Abort(reason)) => Err(Stop::failed(reason.to_string())),
    }
}

fn play_script(
    bench: &Bench<'_>,
    name: &str,
    script: &Script,
    check: &impl Fn(&Bench<'_>, &Layer<Committed>, Option<&Layer<Committed>>) -> Verdict,
) -> Verdict {
    let posix = bench.capabilities().posix;
    let allowed = Allowed { exdev: !posix.rename_lower_dirs, breaks_links: !posix.lower_hard_links };
    let plain = bench.room().plain().join(name);
    mkdir(&plain)?;
    let mut chain: Vec<Layer<Committed>> = Vec::new();
    let mut clock = 0;
    for (number, edits) in script.iter().enumerate() {
        let layer = bench.create(&format!("{name}-{number}"), chain.last())?;
        bench.edit(&layer, |tree| play(edits, tree, &plain, allowed, &mut clock))?;
        let layer = bench.commit(layer)?;
        let expected = Snapshot::of(&plain)?;
        let shown = bench.snapshot(&layer)?;
        shown.expect(&expected, Times::OfFiles).map_err(|stop| stop.within(format!("layer {number}")))?;
        check(bench, &layer, chain.last()).map_err(|stop| stop.within(format!("layer {number}")))?;
        chain.push(layer);
    }
    while let Some(layer) = chain.pop() {
        bench.store().remove(layer.id()).doing(|| format!("remove '{}'", layer.id()))?;
    }
    Ok(())
}

fn changes_make_the_same(
    bench: &Bench<'_>,
    layer: &Layer<Committed>,
    parent: Option<&Layer<Committed>>,
) -> Verdict {
    check_loosely(bench, layer, parent)?;
    let tar = with_changes(bench, layer, parent, |changes, trees| {
        let mut archive = Writer::new(Vec::new());
        diff::write(changes, trees, &|_| false, &mut archive).doing(|| "write the changes")?;
        archive.finish().doing(|| "finish the tarball")
    })?;
    let sibling = bench.create("sibling", parent)?;
    apply_tar(bench, &sibling, &tar)?;
    let sibling = bench.commit(sibling)?;
    let (shown, expected) = (bench.snapshot(&sibling)?, bench.snapshot(layer)?);
    bench.store().remove(&id("sibling")).doing(|| "remove the sibling")?;
    shown
        .expect(&expected, Times::OfFiles)
        .map_err(|stop| stop.within("the sibling that the changes were applied to"))
}
