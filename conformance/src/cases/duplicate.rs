//! Copies of writable layers.

use mica_core::{Chain, Committed, Layer, Writable};

use super::errors::not_listed;
use super::list;
use crate::bench::{Bench, How, id};
use crate::difference::check;
use crate::files::{append, link, mkdir, read, remove, set_time, write};
use crate::outcome::{Doing, Verdict, ensure, refused};
use crate::tree::{Snapshot, Times};

list! {
    "duplicate" duplicate =
        "duplicate makes a writable layer with the parents, the content and so the changes of another; else it answers Unsupported",
        Duplicate else duplicate_is_refused;
    "duplicate-of-mounted" duplicate_of_mounted =
        "a layer may be duplicated while it is mounted, and the copy shows what was written",
        Duplicate else duplicate_is_refused;
    "duplicates-are-apart" duplicates_are_apart =
        "the two layers of a duplication live on without each other",
        Duplicate else duplicate_is_refused;
    "duplicate-errors" duplicate_errors =
        "duplicate fails with NotFound, State when the source is committed, AlreadyExists for the target, and leaves nothing",
        Duplicate else duplicate_is_refused;
}

/// A writable layer in which something was added, changed and deleted, and its parent.
fn changed(bench: &Bench<'_>) -> Verdict<(Layer<Writable>, Layer<Committed>)> {
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        ["dir/a", "dir/b", "c"].iter().try_for_each(|name| write(&tree.join(name), name))
    })?;
    let layer = bench.create("layer", Some(&base))?;
    bench.edit(&layer, |tree| {
        append(&tree.join("dir/a"), " changed")?;
        remove(&tree.join("dir/b"))?;
        remove(&tree.join("dir")).and_then(|()| mkdir(&tree.join("dir")))?;
        write(&tree.join("new"), "new")?;
        link(&tree.join("new"), &tree.join("linked"))?;
        set_time(&tree.join("new"), 1_600_000_000, 123_456_789)
    })?;
    Ok((layer, base))
}

fn duplicate(bench: Bench<'_>) -> Verdict {
    let (layer, base) = changed(&bench)?;
    let before = bench.snapshot(&layer)?;
    let copy = bench.store().duplicate(&layer, id("copy")).doing(|| "duplicate")?;
    bench.snapshot(&copy)?.expect(&before, Times::OfAll).map_err(|stop| stop.within("the copy"))?;
    bench.snapshot(&layer)?.expect(&before, Times::OfAll).map_err(|stop| stop.within("the original"))?;
    check(&bench, &copy, Some(&base)).map_err(|stop| stop.within("the changes of the copy"))?;
    let committed = bench.commit(copy)?;
    check(&bench, &committed, Some(&base))
        .map_err(|stop| stop.within("the changes of the committed copy"))?;
    bench
        .snapshot(&committed)?
        .expect(&before, Times::OfAll)
        .map_err(|stop| stop.within("the committed copy"))
}

fn duplicate_of_mounted(bench: Bench<'_>) -> Verdict {
    let (layer, _) = changed(&bench)?;
    let mounted = bench.mount(&layer, How::Write)?;
    write(&mounted.path().join("late"), "just now")?;
    let before = Snapshot::of(mounted.path())?;
    let copy = bench.store().duplicate(&layer, id("copy")).doing(|| "duplicate a mounted layer")?;
    append(&mounted.path().join("late"), ", and later")?;
    bench.snapshot(&copy)?.expect(&before, Times::OfAll).map_err(|stop| stop.within("the copy"))?;
    let late = read(&mounted.path().join("late"))?;
    ensure!(late == "just now, and later", "the original shows '{late}' after the duplication");
    mounted.close()
}

fn duplicates_are_apart(bench: Bench<'_>) -> Verdict {
    let (layer, _) = changed(&bench)?;
    let copy = bench.store().duplicate(&layer, id("copy")).doing(|| "duplicate")?;
    bench
        .edit(&layer, |tree| append(&tree.join("new"), " original").and_then(|()| remove(&tree.join("c"))))?;
    bench.edit(&copy, |tree| append(&tree.join("new"), " copy"))?;
    let texts = (
        bench.look(&layer, |tree| read(&tree.join("new")))?,
        bench.look(&copy, |tree| read(&tree.join("new")))?,
    );
    ensure!(texts == ("new original".to_owned(), "new copy".to_owned()), "the two show {texts:?}");
    let shown = bench.snapshot(&copy)?;
    bench.store().remove(layer.id())?;
    bench
        .snapshot(&copy)?
        .expect(&shown, Times::OfAll)
        .map_err(|stop| stop.within("after the original is gone"))
}

fn duplicate_errors(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let layer = bench.create("layer", Some(&base))?;
    let before = bench.leftovers()?;
    let driver = bench.driver();
    let missing = Chain { id: &id("nobody"), parents: &[] };
    refused!(driver.duplicate(missing, &id("copy")), NotFound, "duplicate of a missing layer");
    refused!(driver.duplicate(base.chain(), &id("copy")), State, "duplicate of a committed layer");
    for target in ["base", "layer"] {
        refused!(driver.duplicate(layer.chain(), &id(target)), AlreadyExists, "duplicate onto '{target}'");
    }
    not_listed(&bench, "copy")?;
    bench.leftovers()?.expect_none_since(&before)
}

fn duplicate_is_refused(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("layer", None)?;
    bench.edit(&layer, |tree| write(&tree.join("file"), "x"))?;
    let before = bench.leftovers()?;
    let answer = bench.driver().duplicate(layer.chain(), &id("copy"));
    refused!(answer, Unsupported, "duplicate, which is not claimed,");
    not_listed(&bench, "copy")?;
    bench.leftovers()?.expect_none_since(&before)
}
