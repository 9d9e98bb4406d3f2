//! That nothing is left: in the mount table, among the devices, in the process, on disk.

use mica_core::{Access, Chain, Layer, LayerOptions, MountOptions, MountRequest, Quota, Writable};

use super::list;
use crate::bench::{Bench, Holds, How, id};
use crate::difference::with_changes;
use crate::files::{append, mkdir, remove, write};
use crate::leftovers::{Leftovers, none_new};
use crate::outcome::{Doing, Verdict, ensure};

list! {
    "leaves-no-mounts" leaves_no_mounts =
        "a driver mounts nothing that a caller sees";
    "leaves-no-devices" leaves_no_devices =
        "release undoes what mounts made ready: no loop device and no mapped device is left";
    "leaves-no-descriptors" leaves_no_descriptors =
        "a driver keeps no descriptor of a layer open after the call";
    "leaves-no-files" leaves_no_files =
        "when every layer is removed, the driver's root is as it was; an open after that finds nothing to do";
    "release-undoes-mounts" release_undoes_mounts =
        "release undoes what mounts made ready, when nothing was mounted too, and the layer can be mounted again";
}

/// Every call once, those that fail among them, until no layer is left.
fn whole_life(bench: &Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("dir/file"), "x")
    })?;
    let layer = bench.create("layer", Some(&base))?;
    bench.edit(&layer, |tree| append(&tree.join("dir/file"), "y"))?;
    bench.mount(&layer, How::Apply)?.visit(|tree| write(&tree.path().join("new"), "z"))?;
    let copy: Option<Layer<Writable>> = bench.store().duplicate(&layer, id("copy")).ok();
    let layer = bench.commit(layer)?;
    bench.store().sync([&base, &layer])?;
    bench.store().usage(&layer)?;
    with_changes(bench, &layer, Some(&base), |_, _| Ok(()))?;
    bench.look(&layer, |_| bench.look(&layer, |_| Ok(())))?;
    if let Some(copy) = copy {
        bench.edit(&copy, |tree| remove(&tree.join("dir")))?;
    }
    fail_all(bench, &layer);
    // Whoever stands on others goes first.
    let mut left = bench.listed()?;
    left.sort_by_key(|name| ["layer", "base"].iter().position(|last| last == name));
    left.iter().try_for_each(|name| bench.store().remove(&id(name)).doing(|| format!("remove '{name}'")))
}

/// Calls that a driver refuses, or not: what they answer is told by other cases.
fn fail_all(bench: &Bench<'_>, committed: &impl Holds) {
    let driver = bench.driver();
    let (nobody, one, chain) = (id("nobody"), id("one"), committed.chain());
    let missing = Chain { id: &nobody, parents: &[] };
    let on_missing = Chain { id: &one, parents: std::slice::from_ref(&nobody) };
    let _ = driver.create(on_missing, &LayerOptions::default());
    let _ = driver.create(chain, &LayerOptions::default());
    let _ = driver.create(
        Chain { id: &id("detached"), parents: &[] },
        &LayerOptions { detached: true, ..LayerOptions::default() },
    );
    let quota = Quota { bytes: Some(1), inodes: Some(1) };
    if driver.create(Chain { id: &one, parents: &[] }, &LayerOptions { quota, detached: false }).is_ok() {
        let _ = driver.remove(&one);
    }
    for access in [Access::Read, Access::Write, Access::Apply] {
        let request = MountRequest { access, options: MountOptions::default() };
        let _ = driver.mounts(missing, &request);
        if driver.mounts(chain, &request).is_ok() {
            let _ = driver.release(chain, access);
        }
    }
    let _ = driver.commit(missing);
    let _ = driver.sync(std::slice::from_ref(&nobody));
    let _ = driver.usage(missing);
    let _ = driver.duplicate(missing, &one);
    let _ = driver.duplicate(chain, &one);
}

/// What there is before and after a whole life. The first life is not looked at: a driver may make its directories when
/// it first needs them.
fn before_and_after(bench: &Bench<'_>) -> Verdict<(Leftovers, Leftovers)> {
    whole_life(bench)?;
    let before = bench.leftovers()?;
    for _ in 0..2 {
        whole_life(bench)?;
    }
    Ok((before, bench.leftovers()?))
}

fn leaves_no_mounts(bench: Bench<'_>) -> Verdict {
    let start = bench.leftovers()?;
    let (_, after) = before_and_after(&bench)?;
    none_new("mount", &after.mounts, &start.mounts)
}

fn leaves_no_devices(bench: Bench<'_>) -> Verdict {
    let start = bench.leftovers()?;
    let (_, after) = before_and_after(&bench)?;
    none_new("device", &after.devices, &start.devices)
}

fn leaves_no_descriptors(bench: Bench<'_>) -> Verdict {
    let (before, after) = before_and_after(&bench)?;
    none_new("descriptor", &after.descriptors, &before.descriptors)
}

fn leaves_no_files(bench: Bench<'_>) -> Verdict {
    let (before, after) = before_and_after(&bench)?;
    none_new("path", &after.paths, &before.paths)?;
    for name in ["base", "layer", "copy", "detached", "nobody", "one"] {
        let named = |path: &&String| path.rsplit('/').next().is_some_and(|last| last == name);
        let left: Vec<&String> = after.paths.iter().filter(named).collect();
        ensure!(left.is_empty(), "no layer is left, and these files are: {left:?}");
    }
    let bench = bench.restart()?;
    none_new("path", &bench.leftovers()?.paths, &before.paths).map_err(|stop| stop.within("after a restart"))
}

fn release_undoes_mounts(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, |tree| write(&tree.join("file"), "x"))?;
    let layer = bench.create("layer", Some(&base))?;
    let before = bench.leftovers()?;
    for access in [Access::Read, Access::Write, Access::Apply] {
        for _ in 0..3 {
            let request = MountRequest { access, options: MountOptions::default() };
            bench.driver().mounts(layer.chain(), &request).doing(|| format!("mounts for {access:?}"))?;
            bench.driver().release(layer.chain(), access).doing(|| format!("release of {access:?}"))?;
        }
    }
    let after = bench.leftovers()?;
    none_new("mount", &after.mounts, &before.mounts)?;
    none_new("device", &after.devices, &before.devices)?;
    none_new("descriptor", &after.descriptors, &before.descriptors)?;
    bench.edit(&layer, |tree| write(&tree.join("file"), "y"))
}
