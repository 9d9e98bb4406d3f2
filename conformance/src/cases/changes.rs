//! Where a layer differs from its parent.

use std::path::Path;

use mica_archive::diff;
use mica_archive::writer::Writer;

use super::list;
use super::tree::{at_each_depth, below, lower_directories_answer_exdev, ten_deep};
use crate::bench::Bench;
use crate::difference::{check, with_changes};
use crate::files::{
    append, chmod, chown, link, mkdir, patch, remove, rename, set_time, set_xattr, symlink, write,
};
use crate::members::apply_tar;
use crate::outcome::{Doing, Verdict, ensure};
use crate::tree::{Snapshot, Times};
use crate::twin::Twin;

list! {
    "changes-of-files" changes_of_files =
        "changes says where the differences are: files added, modified and deleted";
    "changes-of-metadata" changes_of_metadata =
        "a change of mode, owner or time alone is among them";
    "changes-of-attributes" changes_of_attributes =
        "a change of extended attributes alone is among them";
    "changes-of-nothing" changes_of_nothing =
        "a layer that nothing was written to has no changes";
    "changes-of-base" changes_of_base =
        "everything in a base layer is a change";
    "changes-of-recreated-directories" changes_of_recreated_directories =
        "of a directory that was removed and made again, at any depth and in a later layer, all that it held is gone";
    "changes-of-kinds" changes_of_kinds =
        "a file that became a directory, and the reverse, is a change with all below it";
    "changes-of-renames" changes_of_renames =
        "a rename is a deletion and an addition";
    "changes-of-renamed-directories" changes_of_renamed_directories =
        "all that is below a directory that was renamed, untouched as it is, is a deletion and an addition; else rename answers EXDEV",
        RenameLowerDirs else lower_directories_answer_exdev;
    "changes-of-exchanged-files" changes_of_exchanged_files =
        "two files of one size and time that took each other's name are changes";
    "changes-unseen-by-time-and-size" changes_unseen_by_time_and_size =
        "a content of the same length, with the time of modification put back, is a change";
    "changes-of-writable" changes_of_writable =
        "the layer may be writable; the changes are those that it has by then";
    "changes-apply-to-a-sibling" changes_apply_to_a_sibling =
        "the changes as a tarball, applied to another child of the parent, make the same tree, and hold the content of \
        what differs and no more";
}

/// Checks each layer against the one below it.
fn check_all(bench: &Bench<'_>, twin: &Twin<'_, '_>) -> Verdict {
    let layers = twin.committed();
    for (number, layer) in layers.iter().enumerate() {
        let parent = number.checked_sub(1).and_then(|below| layers.get(below));
        check(bench, layer, parent).map_err(|stop| stop.within(format!("layer {}", number + 1)))?;
    }
    Ok(())
}

/// Twenty files, in the root and in a directory each.
fn twenty(tree: &Path) -> Verdict {
    mkdir(&tree.join("dir/sub"))?;
    mkdir(&tree.join("untouched"))?;
    for n in 0..20 {
        write(&tree.join(format!("file-{n:02}")), "base")?;
        write(&tree.join(format!("dir/sub/file-{n:02}")), "base")?;
        write(&tree.join(format!("untouched/file-{n:02}")), "base")?;
    }
    Ok(())
}

/// A third of the files each is written to, made beside the others, and deleted.
fn thirds(tree: &Path) -> Verdict {
    for n in 0..20 {
        for dir in ["", "dir/sub"] {
            let file = tree.join(dir).join(format!("file-{n:02}"));
            match n % 3 {
                0 => append(&file, " and more")?,
                1 => write(&file.with_extension("new"), "new")?,
                _ => remove(&file)?,
            }
        }
    }
    Ok(())
}

fn changes_of_files(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("files")?;
    twin.layer(twenty)?.layer(thirds)?.layer(|tree| remove(&tree.join("dir")))?;
    check_all(&bench, &twin)
}

fn changes_of_metadata(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("metadata")?;
    twin.layer(twenty)?;
    twin.layer(|tree| {
        chmod(&tree.join("file-00"), 0o600)?;
        chown(&tree.join("dir/sub/file-00"), 1, 0)?;
        set_time(&tree.join("file-01"), 1_600_000_000, 1)
    })?;
    // In directories that nothing else changes in, which would be a change of theirs.
    twin.layer(|tree| {
        chown(&tree.join("untouched"), 0, 1)?;
        chmod(&tree.join("dir/sub"), 0o700)?;
        set_time(&tree.join("file-01"), 1_600_000_000, 2)
    })?;
    check_all(&bench, &twin)
}

fn changes_of_attributes(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("attributes")?;
    twin.layer(twenty)?;
    twin.layer(|tree| {
        set_xattr(&tree.join("file-00"), "user.x", b"1")?;
        set_xattr(&tree.join("dir/sub"), "user.x", b"1")
    })?;
    twin.layer(|tree| set_xattr(&tree.join("file-00"), "user.x", b"2"))?;
    check_all(&bench, &twin)
}

fn changes_of_nothing(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("nothing")?;
    twin.layer(twenty)?;
    twin.layer(|_| Ok(()))?.layer(|_| Ok(()))?;
    check_all(&bench, &twin)
}

fn changes_of_base(bench: Bench<'_>) -> Verdict {
    let empty = bench.layer("empty", None, |_| Ok(()))?;
    let listed = bench.snapshot(&empty)?.nodes.len();
    ensure!(listed == 1, "the empty layer shows {listed} nodes, expected its root");
    check(&bench, &empty, None).map_err(|stop| stop.within("an empty base layer"))?;
    let mut twin = bench.twin("base")?;
    twin.layer(|tree| {
        twenty(tree)?;
        symlink("nowhere", &tree.join("link"))?;
        link(&tree.join("file-00"), &tree.join("zlinked"))
    })?;
    check_all(&bench, &twin)
}

fn changes_of_recreated_directories(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("depths")?;
    twin.layer(|tree| at_each_depth(tree, |tree, _| ten_deep(tree)))?;
    twin.layer(|tree| at_each_depth(tree, |tree, depth| remove(&tree.join(below(depth)))))?;
    twin.layer(|tree| at_each_depth(tree, |tree, _| mkdir(&tree.join(below(9)))))?;
    twin.layer(|tree| {
        at_each_depth(tree, |tree, depth| {
            remove(&tree.join(below(depth)))?;
            mkdir(&tree.join(below(depth)))?;
            write(&tree.join(below(depth)).join("new"), "new")
        })
    })?;
    check_all(&bench, &twin)
}

fn changes_of_kinds(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("kinds")?;
    twin.layer(twenty)?;
    twin.layer(|tree| {
        remove(&tree.join("dir/sub"))?;
        write(&tree.join("dir/sub"), "a file now")?;
        remove(&tree.join("file-00"))?;
        mkdir(&tree.join("file-00"))?;
        write(&tree.join("file-00/inside"), "x")?;
        remove(&tree.join("file-01"))?;
        symlink("file-02", &tree.join("file-01"))
    })?;
    twin.layer(|tree| {
        remove(&tree.join("dir/sub"))?;
        mkdir(&tree.join("dir/sub"))?;
        write(&tree.join("dir/sub/file-03"), "back")?;
        remove(&tree.join("file-00"))?;
        write(&tree.join("file-00"), "back")
    })?;
    check_all(&bench, &twin)
}

fn changes_of_renames(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("renames")?;
    twin.layer(|tree| {
        twenty(tree)?;
        write(&tree.join("file-01"), "like no other")
    })?;
    twin.layer(|tree| {
        rename(&tree.join("file-00"), &tree.join("dir/moved"))?;
        rename(&tree.join("file-01"), &tree.join("file-02"))
    })?;
    twin.layer(|tree| {
        mkdir(&tree.join("made"))?;
        rename(&tree.join("dir/moved"), &tree.join("made/moved"))?;
        rename(&tree.join("made"), &tree.join("renamed"))
    })?;
    check_all(&bench, &twin)
}

fn changes_of_renamed_directories(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("directories")?;
    twin.layer(twenty)?;
    twin.layer(|tree| rename(&tree.join("dir"), &tree.join("moved")))?;
    twin.layer(|tree| rename(&tree.join("moved/sub"), &tree.join("untouched/sub")))?;
    twin.layer(|tree| {
        rename(&tree.join("untouched"), &tree.join("aside"))?;
        rename(&tree.join("moved"), &tree.join("untouched"))?;
        rename(&tree.join("aside"), &tree.join("moved"))
    })?;
    // There and back: nothing has changed but times.
    twin.layer(|tree| {
        rename(&tree.join("moved"), &tree.join("aside"))?;
        rename(&tree.join("aside"), &tree.join("moved"))
    })?;
    check_all(&bench, &twin)
}

fn changes_of_exchanged_files(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("exchange")?;
    let names = ["one", "two", "dir/one", "dir/two"];
    twin.layer(|tree| {
        mkdir(&tree.join("dir"))?;
        names.iter().zip(["a", "b", "c", "d"]).try_for_each(|(name, content)| {
            write(&tree.join(name), content)?;
            set_time(&tree.join(name), 1_600_000_000, 5)
        })
    })?;
    let exchange = |tree: &Path, one: &str, other: &str| {
        rename(&tree.join(one), &tree.join("aside"))?;
        rename(&tree.join(other), &tree.join(one))?;
        rename(&tree.join("aside"), &tree.join(other))
    };
    twin.layer(|tree| exchange(tree, "one", "two"))?;
    twin.layer(|tree| exchange(tree, "dir/one", "two"))?;
    twin.layer(|tree| exchange(tree, "dir/one", "dir/two"))?;
    check_all(&bench, &twin)
}

fn changes_unseen_by_time_and_size(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("unseen")?;
    let put_back = |tree: &Path| {
        set_time(&tree.join("file"), 1_600_000_000, 5)?;
        set_time(&tree.join("dir/file"), 1_600_000_000, 5)
    };
    twin.layer(|tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("file"), "0123456789")?;
        write(&tree.join("dir/file"), "0123456789")?;
        write(&tree.join("other"), "x")?;
        put_back(tree)
    })?;
    twin.layer(|tree| {
        patch(&tree.join("file"), 4, b"!")?;
        remove(&tree.join("dir/file"))?;
        write(&tree.join("dir/file"), "9876543210")?;
        put_back(tree)
    })?;
    twin.layer(|tree| patch(&tree.join("file"), 4, b"?").and_then(|()| put_back(tree)))?;
    check_all(&bench, &twin)
}

fn changes_of_writable(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, twenty)?;
    let layer = bench.create("layer", Some(&base))?;
    check(&bench, &layer, Some(&base)).map_err(|stop| stop.within("fresh"))?;
    bench.edit(&layer, thirds)?;
    check(&bench, &layer, Some(&base)).map_err(|stop| stop.within("written to"))?;
    bench.edit(&layer, |tree| append(&tree.join("dir/sub/file-00"), ", again"))?;
    check(&bench, &layer, Some(&base)).map_err(|stop| stop.within("written to again"))
}

fn changes_apply_to_a_sibling(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, twenty)?;
    let layer = bench.layer("layer", Some(&base), |tree| {
        thirds(tree)?;
        remove(&tree.join("untouched"))?;
        mkdir(&tree.join("untouched"))?;
        chmod(&tree.join("untouched"), 0o1777)?;
        write(&tree.join("untouched/file-30"), "new")?;
        link(&tree.join("untouched/file-30"), &tree.join("untouched/file-31"))?;
        symlink("file-30", &tree.join("untouched/link"))?;
        chown(&tree.join("file-03"), 1, 2)
    })?;
    let tar = with_changes(&bench, &layer, Some(&base), |changes, trees| {
        let mut archive = Writer::new(Vec::new());
        diff::write(changes, trees, &|_| false, &mut archive).doing(|| "write the changes")?;
        archive.finish().doing(|| "finish the tarball")
    })?;
    let sibling = bench.create("sibling", Some(&base))?;
    let applied = apply_tar(&bench, &sibling, &tar)?;
    let sibling = bench.commit(sibling)?;
    let shown: Snapshot = bench.snapshot(&layer)?;
    bench.snapshot(&sibling)?.expect(&shown, Times::OfFiles)?;
    let changed = shown.changed(&bench.snapshot(&base)?);
    let first_names =
        changed.iter().filter_map(|path| shown.nodes.get(path)).filter(|node| node.same_as.is_none());
    let differs: u64 = first_names.map(|node| node.size).sum();
    ensure!(applied == differs, "the tarball holds {applied} bytes of content, expected {differs}");
    Ok(())
}
