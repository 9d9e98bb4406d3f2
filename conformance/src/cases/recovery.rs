//! Restarts and crashes.

use std::io::{Read, Write};
use std::path::Path;

use mica_core::{Committed, Layer, MountOptions, Writable};

use super::list;
use crate::bench::{Bench, How, id};
use crate::files::{append, mkdir, read, remove, write};
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};
use crate::patience::Patience;
use crate::sys::{self, Child, Traced};
use crate::tree::{Snapshot, Times};

list! {
    "restart" restart =
        "layers of every state survive a restart, and can be gone on with";
    "crash-between-create-and-commit" crash_between_create_and_commit =
        "after a crash a layer that was not committed is whole, or listed, or gone, and remove clears it";
    "crash-while-filling" crash_while_filling =
        "a crash in the middle of an extraction leaves a layer that remove clears, and its parent whole";
    "crash-while-mounted" crash_while_mounted =
        "a writable layer whose user was killed can be mounted again, with what was written, and gone on with";
    "crash-after-commit" crash_after_commit =
        "after a crash a layer that was committed and synced is whole and committed";
    "crash-among-removals" crash_among_removals =
        "a crash while layers come and go leaves a root that open accepts, and nothing that the next open does not find";
    "crash-at-any-moment" crash_at_any_moment =
        "a crash at any moment leaves a root that open accepts; what was committed and synced is whole, the rest is whole, or listed, or gone";
    "open-leaves-the-living-alone" open_leaves_the_living_alone =
        "opening finishes what a crash left, and never anything that another live process is doing";
}

fn restart(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "base"))?;
    let middle = bench.layer("middle", Some(&base), |tree| write(&tree.join("middle"), "x"))?;
    let top = bench.create("top", Some(&middle))?;
    bench.edit(&top, |tree| append(&tree.join("file"), ", before"))?;
    let before = (bench.snapshot(&middle)?, bench.snapshot(&top)?);
    let bench = bench.restart()?;
    bench
        .snapshot(&middle)?
        .expect(&before.0, Times::OfAll)
        .map_err(|stop| stop.within("the committed layer"))?;
    bench
        .snapshot(&top)?
        .expect(&before.1, Times::OfAll)
        .map_err(|stop| stop.within("the writable layer"))?;
    bench.edit(&top, |tree| append(&tree.join("file"), ", after"))?;
    let bench = bench.restart()?;
    let top = bench.commit(top)?;
    let last = bench.layer("last", Some(&top), |tree| remove(&tree.join("middle")))?;
    let text = bench.look(&last, |tree| read(&tree.join("file")))?;
    ensure!(text == "base, before, after", "after two restarts the file holds '{text}'");
    Ok(())
}

/// Runs this in a process of its own, which says when it has come so far, and is killed then.
fn crashed(bench: &Bench<'_>, work: impl FnOnce(&Bench<'_>) -> Verdict) -> Verdict {
    let room = bench.room();
    let (mut reader, mut writer) = std::io::pipe().doing(|| "make a pipe")?;
    let child = sys::fork(|| {
        let text = match Bench::open(room).and_then(|own| {
            work(&own)?;
            std::mem::forget(own);
            Ok(())
        }) {
            Ok(()) => String::new(),
            Err(stop) => format!("{stop:?}"),
        };
        let _ = writer.write_all(format!("{text}\n").as_bytes());
        loop {
            std::thread::park();
        }
    });
    let child = child.doing(|| "fork")?;
    drop(writer);
    let answer = line(&mut reader)?;
    child.kill().doing(|| "kill the child")?;
    crate::leftovers::unmount_below(&room.scratch());
    ensure!(answer.is_empty(), "the process that was to be killed failed before: {answer}");
    Ok(())
}

/// What the other process says, up to the end of the line.
fn line(from: &mut impl Read) -> Verdict<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte).doing(|| "hear from the child")? == 1 && byte != *b"\n" {
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The layers that were there before the crash are whole; every other one can be removed, and made again.
fn whole_and_clear(bench: Bench<'_>, whole: &[(&Layer<Committed>, &Snapshot)]) -> Verdict {
    let bench = bench.restart()?;
    for (layer, before) in whole {
        let now = bench.snapshot(*layer).map_err(|stop| stop.within(format!("'{}'", layer.id())))?;
        now.expect(before, Times::OfAll).map_err(|stop| stop.within(format!("'{}'", layer.id())))?;
    }
    let known = |name: &String| whole.iter().any(|(layer, _)| layer.id().as_str() == name);
    for name in bench.listed()?.iter().filter(|name| !known(name)) {
        bench.store().remove(&id(name)).doing(|| format!("remove '{name}', which the crash left"))?;
    }
    let listed = bench.listed()?;
    ensure!(listed.iter().all(known), "after what the crash left was removed, the list is {listed:?}");
    let base = whole.first().map(|(layer, _)| *layer);
    let again = bench.layer("layer", base, |tree| write(&tree.join("again"), "x"))?;
    bench.look(&again, |tree| {
        ensure!(!tree.join("of the crashed").exists(), "the new layer shows what the crashed process wrote");
        Ok(())
    })
}

fn synced_base(bench: &Bench<'_>, files: usize) -> Verdict<(Layer<Committed>, Snapshot)> {
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        (0..files).try_for_each(|n| write(&tree.join(format!("dir/{n}")), "base"))
    })?;
    bench.store().sync([&base])?;
    let shown = bench.snapshot(&base)?;
    Ok((base, shown))
}

fn crash_between_create_and_commit(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 20)?;
    crashed(&bench, |own| {
        let layer = own.create("layer", Some(&base))?;
        own.edit(&layer, |tree| write(&tree.join("of the crashed"), "x"))?;
        own.create("other", Some(&base)).map(drop)
    })?;
    whole_and_clear(bench, &[(&base, &shown)])
}

fn crash_while_filling(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 20)?;
    crashed(&bench, |own| {
        let layer = own.create("layer", Some(&base))?;
        let tree = own.mount(&layer, How::Apply)?;
        write(&tree.path().join("of the crashed"), "x")?;
        std::mem::forget(tree);
        let other = own.create("other", Some(&base))?;
        let tree = own.mount(&other, How::Write)?;
        append(&tree.path().join("dir/0"), "of the crashed")?;
        std::mem::forget(tree);
        Ok(())
    })?;
    whole_and_clear(bench, &[(&base, &shown)])
}

fn crash_while_mounted(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 20)?;
    let layer = bench.create("layer", Some(&base))?;
    crashed(&bench, |own| {
        let tree = own.mount(&layer, How::Write)?;
        append(&tree.path().join("dir/0"), ", written")?;
        remove(&tree.path().join("dir/1"))?;
        std::mem::forget(tree);
        Ok(())
    })?;
    let bench = bench.restart()?;
    let check = |tree: &Path, expected: &str| {
        let text = read(&tree.join("dir/0"))?;
        ensure!(text == expected, "the file holds '{text}', expected '{expected}'");
        ensure!(!tree.join("dir/1").exists(), "the file that was removed is there");
        Ok(())
    };
    bench.look(&layer, |tree| check(tree, "base, written")).map_err(|stop| stop.within("after the crash"))?;
    bench.edit(&layer, |tree| append(&tree.join("dir/0"), ", and on"))?;
    let layer = bench.commit(layer)?;
    bench.look(&layer, |tree| check(tree, "base, written, and on"))?;
    bench.snapshot(&base)?.expect(&shown, Times::OfAll).map_err(|stop| stop.within("the parent"))
}

fn crash_after_commit(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 20)?;
    crashed(&bench, |own| {
        let layer = own.layer("synced", Some(&base), |tree| write(&tree.join("dir/0"), "changed"))?;
        own.store().sync([&layer])?;
        own.layer("layer", Some(&layer), |tree| write(&tree.join("of the crashed"), "x")).map(drop)
    })?;
    let bench = bench.restart()?;
    let parents = vec![base.id().clone()];
    let synced = Layer::<Committed>::recorded(id("synced"), parents.clone());
    let text = bench.look(&synced, |tree| read(&tree.join("dir/0")))?;
    ensure!(text == "changed", "the layer that was synced before the crash shows '{text}'");
    let as_writable = Layer::<Writable>::recorded(id("synced"), parents);
    let written = bench.store().write(&as_writable, &MountOptions::default());
    refused!(written, State, "Write of the layer that was committed before the crash");
    bench.store().remove(&id("layer")).doing(|| "remove the layer that was not synced")?;
    let before = bench.snapshot(&synced)?;
    whole_and_clear(bench, &[(&base, &shown), (&synced, &before)])
}

/// A process that makes and removes layers until it is killed, a byte for each round.
fn busy(bench: &Bench<'_>, base: &Layer<Committed>) -> Verdict<(Child, std::io::PipeReader)> {
    let room = bench.room();
    let (reader, mut writer) = std::io::pipe().doing(|| "make a pipe")?;
    let child = sys::fork(|| {
        let mut work = || -> Verdict {
            let own = Bench::open(room)?;
            for round in 0u64.. {
                let layer = own.create(&format!("busy-{round}"), Some(base))?;
                if round % 2 == 0 {
                    own.commit(layer)?;
                }
                if round >= 2 {
                    own.driver().remove(&id(&format!("busy-{}", round - 2)))?;
                }
                writer.write_all(b".").doing(|| "tell the parent")?;
            }
            Ok(())
        };
        u8::from(work().is_err())
    });
    Ok((child.doing(|| "fork")?, reader))
}

fn crash_among_removals(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 20)?;
    let mut bench = bench;
    let mut patience = Patience::at_least(4);
    for rounds in (3..15).take_while(|_| patience.lasts()) {
        let (child, mut reader) = busy(&bench, &base)?;
        let mut told = vec![0; rounds];
        reader
            .read_exact(&mut told)
            .map_err(|_| Stop::failed("the process that makes and removes layers failed"))?;
        child.kill().doing(|| "kill the child")?;
        bench = bench.restart()?;
        bench.snapshot(&base)?.expect(&shown, Times::OfAll)?;
        for name in bench.listed()?.iter().filter(|name| *name != "base") {
            bench.store().remove(&id(name)).doing(|| format!("remove '{name}', which the crash left"))?;
        }
    }
    let bench = bench.restart()?;
    let paths = bench.leftovers()?.paths;
    let left: Vec<&String> = paths.iter().filter(|path| path.contains("busy")).collect();
    ensure!(
        left.is_empty(),
        "after a crash, the removal of all that was listed and an open, there is {left:?}"
    );
    Ok(())
}

/// What is crashed: each call that changes the root, once.
fn each_change(own: &Bench<'_>, base: &Layer<Committed>, copied: &Layer<Writable>) -> Verdict {
    let layer = own.create("layer", Some(base))?;
    let layer = own.commit(layer)?;
    own.store().sync([&layer])?;
    if own.capabilities().duplicate {
        own.store().duplicate(copied, id("copy"))?;
    }
    own.driver().remove(&id("old")).doing(|| "remove 'old'")
}

/// The most crashes in one case. A driver that makes more steps than that is crashed at every second, third … of them.
const CRASHES: usize = 100;

fn crash_at_any_moment(bench: Bench<'_>) -> Verdict {
    let (base, shown) = synced_base(&bench, 3)?;
    let copied = bench.create("copied", Some(&base))?;
    bench.edit(&copied, |tree| write(&tree.join("dir/0"), "copied"))?;
    let copied_shows = bench.snapshot(&copied)?;
    let old_shows = bench.snapshot(&old(&bench, &base)?)?;
    let room = bench.room();
    let work = || u8::from(Bench::open(room).and_then(|own| each_change(&own, &base, &copied)).is_err());
    let whole = sys::kill_at_step(usize::MAX, work).doing(|| "trace a process")?;
    let Traced::Ended { status: 0, steps } = whole else {
        return Err(Stop::failed(format!("a traced process that nobody kills ended with {whole:?}")));
    };
    let mut bench = after_crash(bench, &["base", "copied"])?;
    let before = bench.leftovers()?;
    let mut patience = Patience::at_least(12);
    for step in coarse_to_fine(steps).into_iter().take_while(|_| patience.lasts()) {
        let at = |stop: Stop| stop.within(format!("after a crash before change {step} of {steps}"));
        old(&bench, &base)?;
        sys::kill_at_step(step, work).doing(|| "trace a process")?;
        bench = bench.restart().map_err(at)?;
        let as_before = |name: &str, layer: &dyn Fn() -> Verdict<Snapshot>, expected: &Snapshot| {
            let shown = layer().and_then(|shown| shown.expect(expected, Times::OfAll));
            shown.map_err(|stop| at(stop.within(format!("'{name}'"))))
        };
        as_before("base", &|| bench.snapshot(&base), &shown)?;
        as_before("copied", &|| bench.snapshot(&copied), &copied_shows)?;
        if bench.listed()?.iter().any(|name| name == "old") {
            let old = Layer::<Committed>::recorded(id("old"), vec![base.id().clone()]);
            as_before("old", &|| bench.snapshot(&old), &old_shows)?;
        }
        bench = after_crash(bench, &["base", "copied"]).map_err(at)?;
        bench.leftovers()?.expect_none_since(&before).map_err(at)?;
    }
    Ok(())
}

/// The steps to crash at, first some from the whole, then those in between.
fn coarse_to_fine(steps: usize) -> Vec<usize> {
    let apart = steps.div_ceil(CRASHES).max(1);
    let strides = [16, 8, 4, 2, 1].map(|stride| stride * apart);
    let mut order: Vec<usize> = Vec::new();
    for stride in strides {
        let finer: Vec<usize> = (0..steps).step_by(stride).filter(|step| !order.contains(step)).collect();
        order.extend(finer);
    }
    order
}

/// A committed layer that the process is to remove.
fn old(bench: &Bench<'_>, base: &Layer<Committed>) -> Verdict<Layer<Committed>> {
    let layer = bench.create("old", Some(base))?;
    bench.commit(layer)
}

/// Removes everything but these layers, and starts anew.
fn after_crash<'r>(bench: Bench<'r>, keep: &[&str]) -> Verdict<Bench<'r>> {
    for name in bench.listed()?.iter().filter(|name| !keep.contains(&name.as_str())) {
        bench.store().remove(&id(name)).doing(|| format!("remove '{name}', which the crash left"))?;
    }
    bench.restart()
}

fn open_leaves_the_living_alone(bench: Bench<'_>) -> Verdict {
    let (base, _) = synced_base(&bench, 20)?;
    let layer = bench.create("layer", Some(&base))?;
    let tree = bench.mount(&layer, How::Write)?;
    write(&tree.path().join("file"), "before")?;
    let fresh = bench.create("fresh", Some(&base))?;
    let room = bench.room();
    let other = sys::fork(|| u8::from(room.open_driver().and_then(|driver| driver.list()).is_err()));
    let status = other.and_then(Child::wait).doing(|| "open in another process")?;
    ensure!(status == Some(0), "another process cannot open the driver beside this one");
    append(&tree.path().join("file"), " and after")?;
    tree.close()?;
    let layer = bench.commit(layer)?;
    let text = bench.look(&layer, |tree| read(&tree.join("file")))?;
    ensure!(text == "before and after", "after another process opened the driver, the file shows '{text}'");
    bench.edit(&fresh, |tree| write(&tree.join("file"), "x"))?;
    bench.commit(fresh).map(drop)
}
