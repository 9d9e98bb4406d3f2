//! Trees that change from layer to layer, in all the ways that unions of directories have got wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::list;
use crate::bench::Bench;
use crate::files::{append, chmod, chown, mkdir, patch, remove, rename, symlink, write};
use crate::outcome::{Doing, Verdict, ensure};
use crate::tree::Snapshot;

list! {
    // docker#21555
    "file-updates" file_updates =
        "each layer shows its own last version of a file";
    // docker#25244
    "directory-recreated" directory_recreated =
        "a directory that was removed and made again shows nothing of what it held";
    "directory-recreated-at-depth" directory_recreated_at_depth =
        "the same at any depth, and in a later layer than the removal";
    "deleted-files" deleted_files =
        "what a layer deleted is gone in it and in its children, and stays in its parent";
    "deleted-then-made-again" deleted_then_made_again =
        "a name that was deleted in one layer can be used again in the same and in the next";
    "kinds-replace-each-other" kinds_replace_each_other =
        "a file, a directory and a link of one name hide each other";
    // docker#20240, #24913, #28391
    "owner-changes" owner_changes =
        "a change of owner alone is a change, of files, directories and links";
    // docker/machine#3327
    "mode-changes" mode_changes =
        "a change of mode alone is a change, and the content stays";
    // docker#27298
    "directory-metadata-through-commits" directory_metadata_through_commits =
        "a directory's owner and mode persist through several commits";
    "files-move-from-a-lower-layer" files_move_from_a_lower_layer =
        "a file that came from a parent can be renamed";
    // docker#25409
    "renames-within-a-layer" renames_within_a_layer =
        "files and directories that the layer made itself can be renamed, also over others";
    "renames-of-lower-directories" renames_of_lower_directories =
        "a directory that came from a parent can be renamed; else rename answers EXDEV",
        RenameLowerDirs else lower_directories_answer_exdev;
    "large-directory" large_directory =
        "a directory of ten thousand names is complete, also after a third of them changed";
    "large-file" large_file =
        "four bytes written into the middle of a large file of a parent change these four bytes";
}

fn file_updates(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("update")?;
    twin.layer(|tree| {
        mkdir(&tree.join("etc"))?;
        write(&tree.join("etc/hosts"), "127.0.0.1 localhost")?;
        write(&tree.join("etc/profile"), "PATH=/usr/bin")
    })?;
    for round in 0..3 {
        twin.layer(|tree| {
            append(&tree.join("etc/profile"), &format!("\nPATH=$PATH:/{round}"))?;
            patch(&tree.join("etc/hosts"), 0, round.to_string().as_bytes())
        })?;
        twin.layer(|tree| write(&tree.join("etc/profile"), format!("of the same length {round}")))?;
    }
    Ok(())
}

fn directory_recreated(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("again")?;
    twin.layer(|tree| {
        mkdir(&tree.join("dir1/deep"))?;
        mkdir(&tree.join("dir2"))?;
        write(&tree.join("dir1/old"), "old")?;
        write(&tree.join("dir1/deep/old"), "old")
    })?;
    twin.layer(|tree| {
        remove(&tree.join("dir1"))?;
        mkdir(&tree.join("dir1"))?;
        write(&tree.join("dir1/new"), "new")
    })?;
    twin.layer(|tree| write(&tree.join("dir1/newer"), "newer"))?;
    twin.layer(|tree| {
        remove(&tree.join("dir1"))?;
        mkdir(&tree.join("dir1"))
    })
    .map(drop)
}

/// The directory at this depth in what [`ten_deep`] makes.
pub(super) fn below(depth: usize) -> PathBuf {
    (0..=depth).map(|level| format!("d{level}")).collect()
}

/// Does something in a directory for each depth of [`below`].
pub(super) fn at_each_depth(tree: &Path, change: impl Fn(&Path, usize) -> Verdict) -> Verdict {
    (0..10).try_for_each(|depth| change(&tree.join(format!("depth-{depth}")), depth))
}

/// Ten directories in each other, a file in each.
pub(super) fn ten_deep(tree: &Path) -> Verdict {
    mkdir(&tree.join(below(9)))?;
    (0..10).try_for_each(|level| write(&tree.join(below(level)).join("file"), "base"))
}

fn directory_recreated_at_depth(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("depths")?;
    twin.layer(|tree| at_each_depth(tree, |tree, _| ten_deep(tree)))?;
    twin.layer(|tree| at_each_depth(tree, |tree, depth| remove(&tree.join(below(depth)))))?;
    twin.layer(|tree| {
        at_each_depth(tree, |tree, _| {
            mkdir(&tree.join(below(9)))?;
            write(&tree.join(below(9)).join("new"), "new")
        })
    })
    .map(drop)
}

fn deleted_files(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("deleted")?;
    twin.layer(|tree| {
        mkdir(&tree.join("dir/sub"))?;
        for name in ["a", "b", "dir/a", "dir/b", "dir/sub/a"] {
            write(&tree.join(name), name)?;
        }
        symlink("a", &tree.join("link"))
    })?;
    let base = bench.snapshot(twin.base()?)?;
    twin.layer(|tree| ["a", "dir/a", "link"].iter().try_for_each(|name| remove(&tree.join(name))))?;
    twin.layer(|_| Ok(()))?;
    twin.layer(|tree| remove(&tree.join("dir/sub")))?;
    twin.layer(|tree| ["dir", "b"].iter().try_for_each(|name| remove(&tree.join(name))))?;
    bench.snapshot(twin.base()?)?.expect(&base, crate::tree::Times::OfAll)
}

fn deleted_then_made_again(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("again")?;
    let names = ["same", "next"];
    twin.layer(|tree| names.iter().try_for_each(|name| write(&tree.join(name), "first")))?;
    twin.layer(|tree| {
        names.iter().try_for_each(|name| remove(&tree.join(name)))?;
        write(&tree.join("same"), "second")
    })?;
    twin.layer(|tree| write(&tree.join("next"), "third"))?;
    twin.layer(|tree| names.iter().try_for_each(|name| remove(&tree.join(name))))?;
    twin.layer(|tree| names.iter().try_for_each(|name| mkdir(&tree.join(name).join("sub")))).map(drop)
}

fn kinds_replace_each_other(bench: Bench<'_>) -> Verdict {
    type Make = fn(&Path) -> Verdict;
    let directory: Make = |path| {
        mkdir(&path.join("sub"))?;
        write(&path.join("sub/file"), "in a directory")
    };
    let kinds: [Make; 3] = [|path| write(path, "a file"), directory, |path| symlink("nowhere", path)];
    // Each name goes through the kinds in an order of its own, one of them in each layer.
    let orders = [[0, 1, 2, 0], [0, 2, 1, 2], [1, 0, 2, 1], [1, 2, 0, 2], [2, 0, 1, 0], [2, 1, 0, 1]];
    let mut twin = bench.twin("kinds")?;
    for layer in 0..4 {
        twin.layer(|tree| {
            for (name, order) in orders.iter().enumerate() {
                let path = tree.join(name.to_string());
                if layer > 0 {
                    remove(&path)?;
                }
                kinds[order[layer]](&path)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn owner_changes(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("owner")?;
    let names = ["opt", "opt/a", "opt/b", "link"];
    twin.layer(|tree| {
        mkdir(&tree.join("opt"))?;
        write(&tree.join("opt/a"), "a")?;
        write(&tree.join("opt/b"), "b")?;
        symlink("opt/a", &tree.join("link"))
    })?;
    twin.layer(|tree| names.iter().try_for_each(|name| chown(&tree.join(name), 1, 2)))?;
    twin.layer(|tree| chown(&tree.join("opt"), 3, 4))?;
    twin.layer(|tree| chown(&tree.join("opt/b"), 65534, 4_000_000_000)).map(drop)
}

fn mode_changes(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("mode")?;
    twin.layer(|tree| {
        mkdir(&tree.join("dir"))?;
        write(&tree.join("dir/file"), "content")
    })?;
    for (dir, file) in [(0o700, 0o000), (0o1777, 0o4755), (0o2755, 0o2711), (0o000, 0o444)] {
        twin.layer(|tree| {
            chmod(&tree.join("dir/file"), file)?;
            chmod(&tree.join("dir"), dir)
        })?;
    }
    Ok(())
}

fn directory_metadata_through_commits(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("directories")?;
    let names = ["dir1", "dir2", "dir3/dir4"];
    twin.layer(|tree| names.iter().try_for_each(|name| mkdir(&tree.join(name))))?;
    twin.layer(|tree| {
        chmod(&tree.join("dir1"), 0o701)?;
        chown(&tree.join("dir2"), 7, 7)?;
        chmod(&tree.join("dir3/dir4"), 0o1710)
    })?;
    twin.layer(|tree| names.iter().try_for_each(|name| write(&tree.join(name).join("file"), "x")))?;
    twin.layer(|tree| names.iter().try_for_each(|name| remove(&tree.join(name).join("file"))))?;
    twin.layer(|tree| chown(&tree.join("dir3"), 8, 9))?;
    twin.layer(|tree| mkdir(&tree.join("dir3/dir4/dir5"))).map(drop)
}

fn files_move_from_a_lower_layer(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("move")?;
    twin.layer(|tree| {
        mkdir(&tree.join("dir1"))?;
        mkdir(&tree.join("dir2"))?;
        write(&tree.join("dir1/f1"), "one")?;
        write(&tree.join("dir2/f2"), "two")?;
        symlink("f1", &tree.join("dir1/link"))
    })?;
    twin.layer(|tree| {
        rename(&tree.join("dir1/f1"), &tree.join("f3"))?;
        rename(&tree.join("dir1/link"), &tree.join("dir2/link"))
    })?;
    twin.layer(|tree| rename(&tree.join("f3"), &tree.join("dir2/f2")))?;
    twin.layer(|tree| rename(&tree.join("dir2/f2"), &tree.join("dir1/f1"))).map(drop)
}

fn renames_within_a_layer(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("rename")?;
    twin.layer(|tree| {
        mkdir(&tree.join("lower"))?;
        write(&tree.join("lower/file"), "lower")?;
        mkdir(&tree.join("empty"))
    })?;
    twin.layer(|tree| {
        mkdir(&tree.join("new/sub"))?;
        write(&tree.join("new/sub/file"), "new")?;
        rename(&tree.join("new"), &tree.join("newer"))?;
        rename(&tree.join("newer/sub"), &tree.join("lower/sub"))?;
        write(&tree.join("other"), "other")?;
        rename(&tree.join("other"), &tree.join("lower/file"))?;
        rename(&tree.join("newer"), &tree.join("empty"))
    })?;
    twin.layer(|tree| {
        remove(&tree.join("lower"))?;
        mkdir(&tree.join("made/again"))?;
        rename(&tree.join("made"), &tree.join("lower"))
    })
    .map(drop)
}

fn lower_directory(tree: &Path) -> Verdict {
    mkdir(&tree.join("dir/sub"))?;
    write(&tree.join("dir/file"), "file")?;
    write(&tree.join("dir/sub/file"), "sub")
}

fn renames_of_lower_directories(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("lower")?;
    twin.layer(lower_directory)?;
    twin.layer(|tree| rename(&tree.join("dir"), &tree.join("moved")))?;
    twin.layer(|tree| rename(&tree.join("moved/sub"), &tree.join("sub")))?;
    twin.layer(|tree| {
        mkdir(&tree.join("moved/sub"))?;
        rename(&tree.join("moved"), &tree.join("dir"))
    })
    .map(drop)
}

pub(super) fn lower_directories_answer_exdev(bench: Bench<'_>) -> Verdict {
    let base = bench.layer("base", None, lower_directory)?;
    let child = bench.create("child", Some(&base))?;
    bench.edit(&child, |tree| {
        let before = Snapshot::of(tree)?;
        let answer = fs::rename(tree.join("dir"), tree.join("moved")).map_err(|error| error.raw_os_error());
        let exdev = Some(Errno::XDEV.raw_os_error());
        ensure!(
            answer == Err(exdev),
            "to rename a directory of the parent answered {answer:?}, expected EXDEV"
        );
        Snapshot::of(tree)?.expect(&before, crate::tree::Times::OfAll)
    })
}

fn large_directory(bench: Bench<'_>) -> Verdict {
    let name = |number: usize| format!("a-name-of-some-length-{number:06}");
    let base = bench.layer("base", None, |tree| {
        mkdir(&tree.join("dir"))?;
        let dir = tree.join("dir");
        (0..10_000).try_for_each(|n| fs::File::create(dir.join(name(n))).map(drop).doing(|| "make a file"))
    })?;
    let layer = bench.layer("layer", Some(&base), |tree| {
        let dir = tree.join("dir");
        (0..10_000).step_by(9).try_for_each(|n| remove(&dir.join(name(n))))?;
        (1..10_000).step_by(9).try_for_each(|n| append(&dir.join(name(n)), "written"))?;
        (20_000..21_000).try_for_each(|n| write(&dir.join(name(n)), "new"))
    })?;
    let length = |n| if n >= 20_000 { 3 } else { 7 * u64::from(n % 9 == 1) };
    let expected: BTreeMap<String, u64> =
        (0..10_000).filter(|n| n % 9 != 0).chain(20_000..21_000).map(|n| (name(n), length(n))).collect();
    let found = bench.look(&layer, |tree| {
        let entries = fs::read_dir(tree.join("dir")).doing(|| "list")?;
        let named = entries.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()))
        });
        named.collect::<std::io::Result<BTreeMap<_, _>>>().doing(|| "list")
    })?;
    let wrong = expected.iter().filter(|(name, length)| found.get(*name) != Some(length)).count();
    let (count, names) = (found.len(), expected.len());
    ensure!(
        wrong == 0 && count == names,
        "{count} names are listed, {wrong} of {names} are missing or wrong"
    );
    Ok(())
}

fn large_file(bench: Bench<'_>) -> Verdict {
    let mut twin = bench.twin("large")?;
    let size = 16 << 20;
    twin.layer(|tree| crate::files::noise(&tree.join("file"), size, 7))?;
    twin.layer(|tree| patch(&tree.join("file"), size / 2, b"1234"))?;
    twin.layer(|tree| patch(&tree.join("file"), size - 2, b"56")).map(drop)
}
