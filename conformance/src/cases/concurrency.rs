//! Many at once: threads, processes, and the locks that keep them apart.

use std::io::{Read, Write};
use std::path::Path;
use std::thread::{ScopedJoinHandle, scope};

use mica_core::{Error, MountOptions};

use super::list;
use crate::bench::{Bench, How, id};
use crate::files::{mkdir, read, remove, write};
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};
use crate::patience::Patience;
use crate::sys::{self, Child};

list! {
    "parallel-creates" parallel_creates =
        "calls about different layers come from many threads at once: sixteen children of one parent";
    "parallel-lives" parallel_lives =
        "layers are made, filled, committed, read and removed by many threads at once";
    "parallel-readers" parallel_readers =
        "any number of mounts, release and usage for Read of one layer overlap";
    "parallel-processes" parallel_processes =
        "one driver root may be open in many processes at once";
    "in-use-by-reader" in_use_by_reader =
        "a layer that another process has mounted answers InUse to remove and commit, until that process ends";
    "in-use-by-writer" in_use_by_writer =
        "a live writable tree is never mounted twice";
}

/// Runs this on so many threads, and fails with the first failure.
fn on_threads(count: usize, work: impl Fn(usize) -> Verdict + Sync) -> Verdict {
    let results: Vec<_> = scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(ScopedJoinHandle::join).collect()
    });
    for (number, result) in results.into_iter().enumerate() {
        let Ok(verdict) = result else {
            return Err(Stop::failed(format!("thread {number} panicked")));
        };
        verdict.map_err(|stop| stop.within(format!("thread {number}")))?;
    }
    Ok(())
}

fn parallel_creates(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        (0..100).try_for_each(|n| write(&tree.join(format!("dir/{n}")), "base"))
    })?;
    on_threads(16, |number| {
        let own = |tree: &Path| write(&tree.join("dir/0"), number.to_string());
        let layer = bench.layer(&format!("child-{number:02}"), Some(&base), own)?;
        bench.look(&layer, |tree| {
            let text = read(&tree.join("dir/0"))?;
            ensure!(text == number.to_string(), "the layer shows '{text}'");
            Ok(())
        })
    })?;
    let listed = bench.listed()?.len();
    ensure!(listed == 17, "{listed} layers are listed, expected 17");
    let text = bench.look(&base, |tree| read(&tree.join("dir/0")))?;
    ensure!(text == "base", "the parent shows '{text}' after all that");
    Ok(())
}

fn parallel_lives(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "base"))?;
    on_threads(8, |number| {
        let mut patience = Patience::at_least(2);
        for round in (0..8).take_while(|_| patience.lasts()) {
            let name = format!("layer-{number}-{round}");
            let layer = bench.layer(&name, Some(&base), |tree| remove(&tree.join("file")))?;
            let top =
                bench.layer(&format!("{name}-top"), Some(&layer), |tree| write(&tree.join("file"), &name))?;
            let text = bench.look(&top, |tree| read(&tree.join("file")))?;
            ensure!(text == name, "'{name}' shows '{text}'");
            bench.store().remove(top.id()).doing(|| "remove the top")?;
            bench.store().remove(layer.id()).doing(|| "remove the middle")?;
        }
        Ok(())
    })?;
    let listed = bench.listed()?;
    ensure!(listed == ["base"], "after all were removed the list is {listed:?}");
    Ok(())
}

fn parallel_readers(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let layer = bench.layer("layer", Some(&base), |tree| write(&tree.join("other"), "y"))?;
    on_threads(8, |_| {
        let mut patience = Patience::at_least(2);
        for _ in (0..8).take_while(|_| patience.lasts()) {
            bench.look(&layer, |tree| {
                bench.store().usage(&layer)?;
                let texts = (read(&tree.join("file"))?, read(&tree.join("other"))?);
                ensure!(texts == ("x".to_owned(), "y".to_owned()), "a reader sees {texts:?}");
                Ok(())
            })?;
        }
        Ok(())
    })?;
    let early = bench.mount(&layer, How::Read)?;
    let late = bench.mount(&layer, How::Read)?;
    early.close()?;
    let text = read(&late.path().join("file")).map_err(|stop| stop.within("after another reader left"))?;
    ensure!(text == "x", "after another reader left, the file shows '{text}'");
    late.close()
}

fn parallel_processes(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "base"))?;
    let open = bench.create("open", Some(&base))?;
    bench.edit(&open, |tree| write(&tree.join("name"), "open"))?;
    let room = bench.room();
    let start = |number: usize| {
        sys::fork(|| {
            let work = || {
                let own = Bench::open(room)?;
                for round in 0..5 {
                    let name = format!("process-{number}-{round}");
                    let layer = own.layer(&name, Some(&base), |tree| write(&tree.join("name"), &name))?;
                    if round % 2 == 0 {
                        own.store().remove(layer.id())?;
                    }
                }
                Ok(())
            };
            let verdict: Verdict = work();
            if let Err(stop) = &verdict {
                eprintln!("process {number}: {stop:?}");
            }
            u8::from(verdict.is_err())
        })
    };
    let children: Vec<Child> = (0..4).map(start).collect::<Result<_, _>>().doing(|| "fork")?;
    for child in children {
        let status = child.wait().doing(|| "wait for a child")?;
        ensure!(status == Some(0), "one of four processes failed at its own layers ({status:?}; see stderr)");
    }
    // It was there while the others opened and ended.
    let open = bench.commit(open).map_err(|stop| stop.within("the layer that was open all the time"))?;
    let text = bench.look(&open, |tree| read(&tree.join("name")))?;
    ensure!(text == "open", "the layer that was open all the time shows '{text}'");
    let mut expected: Vec<String> =
        (0..4).flat_map(|n| [1, 3].map(|round| format!("process-{n}-{round}"))).collect();
    expected.splice(0..0, ["base".to_owned(), "open".to_owned()]);
    let listed = bench.listed()?;
    ensure!(listed == expected, "the list is {listed:?}, expected {expected:?}");
    let bench = bench.restart()?;
    let listed = bench.listed()?;
    ensure!(listed == expected, "after a restart the list is {listed:?}, expected {expected:?}");
    Ok(())
}

/// Starts a process that holds a layer until it is killed, and waits until it does.
fn holder(bench: &Bench<'_>, hold: impl FnOnce(&Bench<'_>) -> bool) -> Verdict<Child> {
    let room = bench.room();
    let (mut reader, mut writer) = std::io::pipe().doing(|| "make a pipe")?;
    let child = sys::fork(|| {
        let held = Bench::open(room).is_ok_and(|own| {
            let held = hold(&own);
            std::mem::forget(own);
            held
        });
        let _ = writer.write_all(&[u8::from(held)]);
        loop {
            std::thread::park();
        }
    });
    let child = child.doing(|| "fork")?;
    drop(writer);
    let mut held = [0];
    reader.read_exact(&mut held).doing(|| "hear from the child")?;
    ensure!(held == [1], "another process could not hold the layer");
    Ok(child)
}

/// Fails unless the answer is `InUse` and names the process. The list of locks that the name comes from may miss one
/// while others change it, so the question is put again.
fn is_in_use(by: &Child, what: &str, ask: impl Fn() -> mica_core::Result<()>) -> Verdict {
    let pid = by.pid().to_string();
    let mut named = String::new();
    for _ in 0..20 {
        match ask() {
            Err(Error::InUse { by: who, .. }) if who.contains(&pid) => return Ok(()),
            Err(Error::InUse { by: who, .. }) => named = who,
            other => refused!(other, InUse, "{what}"),
        }
    }
    Err(Stop::failed(format!("{what} names '{named}', expected process {pid}")))
}

fn in_use_by_reader(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let child = holder(&bench, |own| {
        own.store().read(&base, &MountOptions::default()).map(std::mem::forget).is_ok()
    })?;
    is_in_use(&child, "remove of a layer that is read", || bench.store().remove(base.id()))?;
    bench.look(&base, |tree| read(&tree.join("file"))).map_err(|stop| stop.within("a second reader"))?;
    child.kill().doing(|| "kill the reader")?;
    bench.store().remove(base.id()).doing(|| "remove after the reader ended")?;
    ensure!(bench.listed()?.is_empty(), "the removed layer is listed");
    Ok(())
}

fn in_use_by_writer(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("layer", None)?;
    let child = holder(&bench, |own| {
        own.store().write(&layer, &MountOptions::default()).map(std::mem::forget).is_ok()
    })?;
    let options = MountOptions::default();
    let store = bench.store();
    is_in_use(&child, "a second writer", || store.write(&layer, &options).map(drop))?;
    is_in_use(&child, "an apply beside a writer", || store.apply(&layer, &options).map(drop))?;
    is_in_use(&child, "a reader beside a writer", || store.read(&layer, &options).map(drop))?;
    is_in_use(&child, "remove of a layer that is written", || store.remove(&id("layer")))?;
    child.kill().doing(|| "kill the writer")?;
    bench
        .edit(&layer, |tree| write(&tree.join("file"), "x"))
        .map_err(|stop| stop.within("after the writer ended"))?;
    bench.commit(layer).map(drop)
}
