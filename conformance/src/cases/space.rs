//! What layers take on disk, and what they may take.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use mica_core::{Chain, Layer, LayerOptions, Quota, Writable};
use rustix::io::Errno;

use super::errors::not_listed;
use super::list;
use crate::actor::under_quota;
use crate::bench::{Bench, How, id};
use crate::case::skipped_for;
use crate::files::{mkdir, noise, remove, write};
use crate::outcome::{Doing, Verdict, ensure, refused};

list! {
    "usage" usage =
        "usage tells what the layer alone takes: about what was written, and little for a layer that nothing was written to";
    "usage-of-child" usage_of_child =
        "a file that a layer did not change takes no space in it; else each layer holds a copy",
        SharedData else usage_of_copy;
    "quota-bytes" quota_bytes =
        "writing past the quota of bytes answers EDQUOT or ENOSPC, leaves whole what is there, and removing files makes room again",
        QuotaBytes else quota_bytes_refused;
    "quota-bytes-is-the-layers" quota_bytes_is_the_layers =
        "a quota is the layer's own: others have none, and it is there after a restart",
        QuotaBytes else quota_bytes_refused;
    "quota-bytes-of-duplicate" quota_bytes_of_duplicate =
        "a quota is not copied by duplicate",
        QuotaBytes else quota_bytes_refused;
    "quota-inodes" quota_inodes =
        "making more files than the quota of inodes answers EDQUOT or ENOSPC, and removing files makes room again",
        QuotaInodes else quota_inodes_refused;
}

const MIB: u64 = 1 << 20;

fn usage(bench: Bench<'_>) -> Verdict {
    let layer = bench.create("layer", None)?;
    let empty = bench.store().usage(&layer)?;
    ensure!(empty.bytes < 4 * MIB, "an empty layer takes {} bytes", empty.bytes);
    bench.edit(&layer, |tree| {
        noise(&tree.join("file"), 8 * MIB, 1)?;
        (0..50).try_for_each(|n| write(&tree.join(n.to_string()), ""))
    })?;
    let layer = bench.commit(layer)?;
    bench.store().sync([&layer])?;
    let full = bench.store().usage(&layer)?;
    let grown = full.bytes.saturating_sub(empty.bytes);
    ensure!((8 * MIB..12 * MIB).contains(&grown), "8 MiB in a layer take {grown} bytes more than none");
    if let (Some(before), Some(after)) = (empty.inodes, full.inodes) {
        let made = after.saturating_sub(before);
        ensure!((51..60).contains(&made), "51 files in a layer take {made} inodes more than none");
    }
    Ok(())
}

/// What an untouched child of an 8 MiB file takes, and what it takes when four bytes of another one are written.
fn child_usage(bench: &Bench<'_>) -> Verdict<u64> {
    let base = bench.layer("base", None, |tree| noise(&tree.join("file"), 8 * MIB, 1))?;
    let child = bench.layer("child", Some(&base), |tree| write(&tree.join("other"), "x"))?;
    bench.store().sync([&base, &child])?;
    Ok(bench.store().usage(&child)?.bytes)
}

fn usage_of_child(bench: Bench<'_>) -> Verdict {
    let bytes = child_usage(&bench)?;
    ensure!(bytes < 4 * MIB, "a small file on a base of 8 MiB takes {bytes} bytes");
    Ok(())
}

fn usage_of_copy(bench: Bench<'_>) -> Verdict {
    let bytes = child_usage(&bench)?;
    ensure!(
        bytes >= 8 * MIB,
        "a child of 8 MiB takes {bytes} bytes: its data is shared, which is not claimed"
    );
    Ok(())
}

fn limited(bench: &Bench<'_>, name: &str, quota: Quota) -> Verdict<Layer<Writable>> {
    bench.create_with(name, None, &LayerOptions { quota, ..LayerOptions::default() })
}

fn bytes(limit: u64) -> Quota {
    Quota { bytes: Some(limit), inodes: None }
}

/// Writes this many bytes, as somebody whom quotas bind, to the disk.
fn fill(path: &Path, size: u64) -> Verdict<io::Result<()>> {
    under_quota(|| {
        let mut file = File::create(path)?;
        let block = vec![0x5a; MIB as usize];
        for _ in 0..size / MIB {
            file.write_all(&block)?;
        }
        // Where blocks are only found when they are written back, this is when the limit shows.
        file.sync_all()
    })
}

fn is_limit(answer: &io::Result<()>) -> bool {
    let number = answer.as_ref().err().and_then(io::Error::raw_os_error);
    number == Some(Errno::DQUOT.raw_os_error()) || number == Some(Errno::NOSPC.raw_os_error())
}

fn within_then_past(tree: &Path) -> Verdict {
    fill(&tree.join("fits"), 8 * MIB)?.doing(|| "write 8 MiB of 24")?;
    let answer = fill(&tree.join("too much"), 24 * MIB)?;
    ensure!(is_limit(&answer), "24 MiB more into 24 answered {answer:?}, expected EDQUOT or ENOSPC");
    remove(&tree.join("too much"))?;
    fill(&tree.join("fits now"), 8 * MIB)?.doing(|| "write 8 MiB after room was made")
}

/// Fails unless what [`within_then_past`] wrote is whole.
fn filled(tree: &Path) -> Verdict {
    for name in ["fits", "fits now"] {
        let content = fs::read(tree.join(name)).doing(|| format!("read '{name}'"))?;
        let whole = content.len() as u64 == 8 * MIB && content.iter().all(|&byte| byte == 0x5a);
        ensure!(whole, "'{name}', which was synced before or after the limit was met, is damaged");
    }
    Ok(())
}

fn quota_bytes(bench: Bench<'_>) -> Verdict {
    let layer = limited(&bench, "layer", bytes(24 * MIB))?;
    bench.edit(&layer, within_then_past)?;
    bench.look(&layer, filled)?;
    let committed = bench.commit(layer)?;
    bench.look(&committed, filled).map_err(|stop| stop.within("committed"))?;
    bench
        .layer("child", Some(&committed), |tree| {
            fill(&tree.join("more"), 32 * MIB)?
                .doing(|| "write past the parent's quota in a child without one")
        })
        .map(drop)
}

fn quota_bytes_is_the_layers(bench: Bench<'_>) -> Verdict {
    let layer = limited(&bench, "limited", bytes(24 * MIB))?;
    let small = limited(&bench, "small", bytes(16 * MIB))?;
    let free = bench.create("free", None)?;
    let bench = bench.restart()?;
    bench.edit(&layer, within_then_past)?;
    bench.edit(&small, |tree| {
        let answer = fill(&tree.join("file"), 20 * MIB)?;
        ensure!(is_limit(&answer), "20 MiB into 16 answered {answer:?}, expected EDQUOT or ENOSPC");
        Ok(())
    })?;
    bench.edit(&free, |tree| fill(&tree.join("file"), 32 * MIB)?.doing(|| "write to a layer without a quota"))
}

fn quota_bytes_of_duplicate(bench: Bench<'_>) -> Verdict {
    let layer = limited(&bench, "layer", bytes(24 * MIB))?;
    bench.edit(&layer, |tree| fill(&tree.join("file"), 8 * MIB)?.doing(|| "write 8 MiB of 24"))?;
    if !bench.capabilities().duplicate {
        return Ok(());
    }
    let copy = bench.store().duplicate(&layer, id("copy")).doing(|| "duplicate")?;
    bench.edit(&copy, |tree| {
        fill(&tree.join("more"), 32 * MIB)?.doing(|| "write past the original's quota in its duplicate")
    })?;
    bench.edit(&layer, within_then_past)
}

fn quota_inodes(bench: Bench<'_>) -> Verdict {
    let layer = limited(&bench, "layer", Quota { bytes: None, inodes: Some(100) })?;
    bench.mount(&layer, How::Write)?.visit(|tree| {
        let make = |dir: &str, count: usize| {
            let dir = tree.path().join(dir);
            mkdir(&dir)?;
            under_quota(|| (0..count).try_for_each(|n| fs::write(dir.join(n.to_string()), "")))
        };
        make("fits", 50)?.doing(|| "make 50 files of 100")?;
        let answer = make("too-many", 100)?;
        ensure!(is_limit(&answer), "100 files more into 100 answered {answer:?}, expected EDQUOT or ENOSPC");
        remove(&tree.path().join("too-many"))?;
        make("fit-now", 20)?.doing(|| "make 20 files after room was made")
    })
}

fn refuses(bench: &Bench<'_>, quota: Quota) -> Verdict {
    let before = bench.leftovers()?;
    let options = LayerOptions { quota, ..LayerOptions::default() };
    let answer = bench.driver().create(Chain { id: &id("layer"), parents: &[] }, &options);
    refused!(answer, Unsupported, "create with {quota:?}, which is not claimed,");
    not_listed(bench, "layer")?;
    bench.leftovers()?.expect_none_since(&before)
}

fn quota_bytes_refused(bench: Bench<'_>) -> Verdict {
    refuses(&bench, bytes(24 * MIB))?;
    skipped_for(&bench.capabilities().quota_bytes)
}

fn quota_inodes_refused(bench: Bench<'_>) -> Verdict {
    refuses(&bench, Quota { bytes: None, inodes: Some(100) })?;
    skipped_for(&bench.capabilities().quota_inodes)
}
