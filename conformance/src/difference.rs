//! What `changes` says, held against a full comparison of the two trees.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use mica_archive::diff::{self, ChangeKind};
use mica_core::{Changes, Committed, Layer, MountOptions, WhiteoutForm};
use mica_mount::{Held, LazyTrees};

use crate::bench::{Bench, Holds};
use crate::mounted::mounter;
use crate::outcome::{Doing, Verdict, ensure};
use crate::tree::{Node, Snapshot, Times, shown};

/// A path and how it differs, as `mica diff` prints it.
type List = BTreeMap<PathBuf, ChangeKind>;

/// Does something with what the driver says of a layer and its parent, and the trees that it may ask for.
pub(crate) fn with_changes<T>(
    bench: &Bench<'_>,
    layer: &impl Holds,
    parent: Option<&Layer<Committed>>,
    work: impl FnOnce(&Changes, &LazyTrees<'_>) -> Verdict<T>,
) -> Verdict<T> {
    let mounter = mounter(&bench.room().scratch());
    let options = MountOptions::default();
    let held = |hold: mica_core::Result<mica_core::Hold>| Held::open(hold?, &mounter);
    let open_layer = || held(layer.hold(bench.store(), crate::bench::How::Read, &options));
    let open_parent = || parent.map(|parent| held(bench.store().read(parent, &options))).transpose();
    let trees = LazyTrees::new(open_layer, open_parent);
    let changes = bench.driver().changes(layer.chain(), &trees).doing(|| "changes")?;
    let value = work(&changes, &trees)?;
    trees.close().doing(|| "close the trees")?;
    Ok(value)
}

/// Fails unless what the driver says leads to exactly the differences that there are.
pub(crate) fn check(bench: &Bench<'_>, layer: &impl Holds, parent: Option<&Layer<Committed>>) -> Verdict {
    let (found, expected) = lists(bench, layer, parent)?;
    compare(&found, &expected)
}

/// The same, but what was written and is equal again may be told as modified.
pub(crate) fn check_loosely(
    bench: &Bench<'_>,
    layer: &impl Holds,
    parent: Option<&Layer<Committed>>,
) -> Verdict {
    let (mut found, expected) = lists(bench, layer, parent)?;
    found.retain(|path, kind| *kind != ChangeKind::Modified || expected.contains_key(path));
    compare(&found, &expected)
}

/// The list that `changes` leads to, and the one that a full comparison gives.
fn lists(bench: &Bench<'_>, layer: &impl Holds, parent: Option<&Layer<Committed>>) -> Verdict<(List, List)> {
    let now = bench.snapshot(layer)?;
    let then = match parent {
        Some(parent) => bench.snapshot(parent)?,
        None => Snapshot::default(),
    };
    let found = with_changes(bench, layer, parent, |changes, trees| {
        match changes {
            Changes::Upper { dir, whiteouts } => check_upper(&Snapshot::of(dir)?, *whiteouts, &now, &then)?,
            Changes::Compare { only: Some(inodes) } => check_inodes(inodes, &now, &then)?,
            Changes::Compare { only: None } => {}
        }
        let list = diff::changes(changes, trees, &|_| false).doing(|| "list the changes")?;
        Ok(list.into_iter().map(|change| (bytes_path(change.path), change.kind)).collect::<List>())
    })?;
    Ok((found, expected(&now, &then)))
}

fn bytes_path(path: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path).into()
}

/// The list that a full comparison gives, without the root.
fn expected(now: &Snapshot, then: &Snapshot) -> List {
    let mut list = List::new();
    for path in now.changed(then) {
        let kind = match (now.nodes.contains_key(&path), then.nodes.contains_key(&path)) {
            (true, false) => ChangeKind::Added,
            (true, true) => ChangeKind::Modified,
            // What was below a deleted directory, or one that is a file now, is not told.
            (false, _) if path.parent().is_some_and(|above| !is_directory(now, above)) => continue,
            (false, _) => ChangeKind::Deleted,
        };
        for above in path.ancestors().skip(1) {
            list.entry(above.to_owned()).or_insert(ChangeKind::Modified);
        }
        list.insert(path, kind);
    }
    list.remove(Path::new(""));
    list
}

fn is_directory(tree: &Snapshot, path: &Path) -> bool {
    tree.nodes.get(path).is_some_and(|node| node.kind == "directory")
}

fn compare(found: &List, expected: &List) -> Verdict {
    let lines: Vec<String> = expected
        .keys()
        .chain(found.keys().filter(|path| !expected.contains_key(*path)))
        .filter(|path| found.get(*path) != expected.get(*path))
        .map(|path| {
            let text =
                |list: &List| list.get(path).map_or("no change".to_owned(), |kind| format!("{kind:?}"));
            format!("\n  {} is told as {}, expected {}", shown(path), text(found), text(expected))
        })
        .collect();
    ensure!(lines.is_empty(), "the list of changes differs:{}", lines.concat());
    Ok(())
}

/// Every difference must be at an inode of the set: the thing itself, and the directory whose list of names differs.
fn check_inodes(only: &HashSet<u64>, now: &Snapshot, then: &Snapshot) -> Verdict {
    let mut must: Vec<&Path> = Vec::new();
    let changed = now.changed(then);
    for path in &changed {
        must.push(path);
        if now.nodes.contains_key(path) != then.nodes.contains_key(path) {
            must.extend(path.parent());
        }
    }
    for path in must {
        if let Some(node) = now.nodes.get(path) {
            ensure!(only.contains(&node.inode), "{} differs, and is not in the set of what may", shown(path));
        }
    }
    Ok(())
}

/// The parent's tree with the upper directory laid over it must be the layer's tree.
fn check_upper(upper: &Snapshot, form: WhiteoutForm, now: &Snapshot, then: &Snapshot) -> Verdict {
    ensure!(form != WhiteoutForm::Merged, "an Upper directory cannot have Merged whiteouts");
    let mut merged = then.clone();
    for (path, node) in &upper.nodes {
        if let Some(hidden) = whiteout(path, node, form) {
            drop_tree(&mut merged, &hidden, true);
            continue;
        }
        if is_mark(path, form) {
            continue;
        }
        let clears =
            node.kind != "directory" || !is_directory(&merged, path) || is_opaque(upper, path, node, form);
        drop_tree(&mut merged, path, clears);
        let mut own = node.clone();
        own.xattrs.retain(|name, _| !name.to_string_lossy().contains(".overlay."));
        merged.nodes.insert(path.clone(), own);
    }
    let plain = |tree: &Snapshot| {
        let mut tree = tree.clone();
        tree.nodes.values_mut().for_each(|node| node.same_as = None);
        tree
    };
    let same = plain(now).expect(&plain(&merged), Times::OfFiles);
    same.map_err(|stop| stop.within("the Upper directory over the parent is not the layer"))
}

/// What this entry of an upper directory hides, if it is a whiteout.
fn whiteout(path: &Path, node: &Node, form: WhiteoutForm) -> Option<PathBuf> {
    match form {
        WhiteoutForm::Overlay { .. } => {
            (node.kind == "character device" && node.device == 0).then(|| path.to_owned())
        }
        _ => {
            let name = path.file_name()?.to_str()?.strip_prefix(".wh.")?;
            (!name.starts_with(".wh.")).then(|| path.with_file_name(name))
        }
    }
}

/// A file of the form's own that hides nothing by its name.
fn is_mark(path: &Path, form: WhiteoutForm) -> bool {
    let marked = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".wh..wh."));
    form == WhiteoutForm::Aufs && marked
}

fn is_opaque(upper: &Snapshot, path: &Path, node: &Node, form: WhiteoutForm) -> bool {
    let attribute = match form {
        WhiteoutForm::Overlay { user_xattr: true } => "user.overlay.opaque",
        WhiteoutForm::Overlay { user_xattr: false } => "trusted.overlay.opaque",
        _ => return upper.nodes.contains_key(&path.join(".wh..wh..opq")),
    };
    node.xattrs.iter().any(|(name, value)| name == attribute && value == b"y")
}

/// Removes what is below a path, and the path itself with it, from a tree.
fn drop_tree(tree: &mut Snapshot, path: &Path, with_below: bool) {
    tree.nodes.remove(path);
    if with_below {
        tree.nodes.retain(|other, _| !other.starts_with(path));
    }
}
