//! A disk without room.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use mica_core::{Begun, Committed, Error, Layer, LayerOptions, Writable};
use rustix::mount::{MountFlags, mount};

use super::errors::not_listed;
use super::list;
use crate::bench::{Bench, How, id};
use crate::files::{mkdir, noise, remove};
use crate::leftovers::unmount_below;
use crate::outcome::{Doing, Stop, Verdict, ensure, refused};
use crate::room::{Room, Subject};
use crate::tree::{Snapshot, Times};

list! {
    "full-disk" full_disk =
        "a write that finds no room fails, at the latest its fsync; commit fails, or the layer has all that was synced, and the parent is whole";
    "full-disk-create" full_disk_create =
        "on a full disk create makes a whole layer, or answers NoSpace and leaves nothing";
    "full-disk-recovers" full_disk_recovers =
        "remove works on a full disk, and what found no room works once there is some";
}

const MIB: u64 = 1 << 20;

/// Enough for a driver that keeps layers on file systems of their own, in a pool with metadata.
const DISK: u64 = 256 * MIB;

/// The size of each of the files that fill it.
const FILE: u64 = 4 * MIB;

/// Opens the driver on a disk of its own, in memory, that is soon full.
fn on_small_disk(bench: &Bench<'_>, work: impl FnOnce(&Bench<'_>) -> Verdict) -> Verdict {
    let disk = bench.room().path().join("disk");
    mkdir(&disk)?;
    let options = std::ffi::CString::new(format!("size={DISK},mode=0755")).doing(|| "name a size")?;
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), options.as_c_str()).doing(|| "mount a tmpfs")?;
    let subject = Subject { root: &disk, ..bench.room().subject() };
    let worked = match subject.available() {
        Err(Error::Unavailable { reason }) => Err(Stop::Skipped(reason)),
        _ => Room::new(subject).and_then(|room| work(&Bench::open(&room)?)),
    };
    unmount_below(&disk);
    worked
}

fn synced_base(bench: &Bench<'_>) -> Verdict<(Layer<Committed>, Snapshot)> {
    let base = bench.layer("base", None, |tree| noise(&tree.join("base"), 8 * MIB, 1))?;
    bench.store().sync([&base])?;
    let shown = bench.snapshot(&base)?;
    Ok((base, shown))
}

fn content(number: u64) -> Vec<u8> {
    vec![number as u8 ^ 0x5a; FILE as usize]
}

fn write_synced(path: &Path, number: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&content(number))?;
    file.sync_all()
}

/// Writes and syncs one file after the other, until one finds no room. How many did.
fn fill(tree: &Path) -> Verdict<u64> {
    for number in 0..2 * DISK / FILE {
        if write_synced(&tree.join(number.to_string()), number).is_err() {
            return Ok(number);
        }
    }
    Err(Stop::failed(format!("{} MiB were written to a disk of {} MiB", 2 * DISK / MIB, DISK / MIB)))
}

/// Fails unless these files, which were synced, are whole.
fn holds(tree: &Path, files: u64) -> Verdict {
    for number in 0..files {
        let found =
            fs::read(tree.join(number.to_string())).doing(|| format!("read file {number} of {files}"))?;
        ensure!(found == content(number), "file {number} of {files}, which was synced, holds something else");
    }
    Ok(())
}

/// A layer on the base that has all the room there is, with the number of its files.
fn filled(bench: &Bench<'_>, base: &Layer<Committed>) -> Verdict<(Layer<Writable>, u64)> {
    let layer = bench.create("full", Some(base))?;
    let tree = bench.mount(&layer, How::Write)?;
    let files = fill(tree.path())?;
    // What it cannot write back it may tell; a write that failed has told it before.
    let _ = tree.close();
    Ok((layer, files))
}

fn full_disk(bench: Bench<'_>) -> Verdict {
    on_small_disk(&bench, |bench| {
        // Beside the driver's root, so that there is room again when it is gone.
        let ballast = bench.room().plain().join("ballast");
        noise(&ballast, 16 * MIB, 2)?;
        let (base, shown) = synced_base(bench)?;
        let (layer, files) = filled(bench, &base)?;
        let committed = bench.store().commit(layer);
        remove(&ballast)?;
        let parent = bench.snapshot(&base).and_then(|now| now.expect(&shown, Times::OfAll));
        parent.map_err(|stop| stop.within("the parent"))?;
        match committed {
            Ok(layer) => bench
                .look(&layer, |tree| holds(tree, files))
                .map_err(|stop| stop.within("commit succeeded, and")),
            // A layer that is a file system of its own may have lost more than the last file. It is not committed, then.
            Err(_) => bench.store().remove(&id("full")).doing(|| "remove the layer whose commit failed"),
        }
    })
}

fn full_disk_create(bench: Bench<'_>) -> Verdict {
    on_small_disk(&bench, |bench| {
        let (base, shown) = synced_base(bench)?;
        filled(bench, &base)?;
        match bench.store().create(id("another"), Some(&base), &LayerOptions::default()) {
            Ok(Begun::Fresh(layer)) => bench.snapshot(&layer)?.expect(&shown, Times::Ignored),
            Ok(Begun::Ready(_)) => Err(Stop::failed("create claims content that nobody made")),
            refused => {
                refused!(refused, NoSpace, "create on a full disk");
                not_listed(bench, "another")
            }
        }
    })
}

fn full_disk_recovers(bench: Bench<'_>) -> Verdict {
    on_small_disk(&bench, |bench| {
        let (base, shown) = synced_base(bench)?;
        filled(bench, &base)?;
        bench.store().remove(&id("full")).doing(|| "remove the layer that fills the disk")?;
        for round in 0..2 {
            let at = |stop: Stop| stop.within(format!("round {round} after there was room again"));
            let layer = bench.create("full", Some(&base)).map_err(at)?;
            let written = bench.edit(&layer, |tree| {
                (0..4).try_for_each(|n| {
                    write_synced(&tree.join(n.to_string()), n).doing(|| format!("write file {n}"))
                })
            });
            written.map_err(at)?;
            let layer = bench.commit(layer).map_err(at)?;
            bench.store().sync([&layer])?;
            bench.look(&layer, |tree| holds(tree, 4)).map_err(at)?;
            bench.store().remove(layer.id())?;
        }
        bench.snapshot(&base)?.expect(&shown, Times::OfAll).map_err(|stop| stop.within("the parent"))
    })
}
