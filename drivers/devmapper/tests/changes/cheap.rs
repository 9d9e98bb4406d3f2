//! What `changes` looks at, and what it answers where the host lacks the tool that it asks.

use std::os::unix::fs::{FileExt, symlink};
use std::process::Command;

use mica_core::{LayerOptions, Quota};
use rustix::fs::{CWD, RenameFlags};

use super::*;

/// Trees that nobody may look at.
struct Nothing;

impl Trees for Nothing {
    fn layer(&self) -> mica_core::Result<&Path> {
        panic!("the layer was mounted")
    }

    fn parent(&self) -> mica_core::Result<Option<&Path>> {
        panic!("the parent was mounted")
    }
}

/// Two thousand files in forty directories.
fn many(tree: &Path) {
    for dir in 0..40 {
        let dir = tree.join(format!("dir-{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..50 {
            fs::write(dir.join(format!("file-{file}")), "a").unwrap();
        }
    }
}

fn inodes(place: &Place, layer: &Layer<Committed>, trees: &dyn Trees) -> HashSet<u64> {
    match place.store.changes(layer, trees).unwrap() {
        Changes::Compare { only: Some(inodes) } => inodes,
        other => panic!("changes are {other:?}"),
    }
}

fn one_of_thousands(options: &[(&str, &str)]) {
    let place = Place::new(options);
    let base = place.layer("base", None, many);
    let written = place.layer("written", Some(&base), |tree| {
        let file = fs::OpenOptions::new().write(true).open(tree.join("dir-20/file-20")).unwrap();
        file.write_all_at(b"b", 0).unwrap();
    });
    // No name changed, so that the inodes alone tell it.
    assert_eq!(inodes(&place, &written, &Nothing).len(), 1);
    let made = place.layer("made", Some(&written), |tree| fs::write(tree.join("dir-30/new"), "").unwrap());
    let trees = LazyTrees::new(|| read(&place, &made), || read(&place, &written).map(Some));
    let inodes = inodes(&place, &made, &trees);
    assert_eq!(inodes.len(), 2, "the file and its directory: {inodes:?}");
    trees.close().unwrap();
}

#[test]
fn one_change_among_thousands_of_files_is_one_inode_on_ext4() {
    one_of_thousands(&[]);
}

#[test]
fn one_change_among_thousands_of_files_is_one_inode_on_xfs() {
    one_of_thousands(&[("filesystem", "xfs")]);
}

/// For xfs it changes no inode of a file.
#[test]
fn two_files_that_change_places_are_changes() {
    let place = Place::new(&[("filesystem", "xfs")]);
    let base = place.layer("base", None, seed);
    let layer = place.layer("layer", Some(&base), |tree| {
        let (one, other) = (tree.join("a/n1"), tree.join("f/g/n2"));
        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
    });
    let trees = LazyTrees::new(|| read(&place, &layer), || read(&place, &base).map(Some));
    let changes = place.store.changes(&layer, &trees).unwrap();
    let told = diff::changes(&changes, &trees, &|_| false).unwrap();
    let told: Vec<&[u8]> = told.iter().map(|change| &*change.path).collect();
    assert!(told.contains(&&b"a/n1"[..]) && told.contains(&&b"f/g/n2"[..]), "{told:?}");
    trees.close().unwrap();
}

#[test]
fn reading_is_no_change() {
    let place = Place::new(&[]);
    let base = place.layer("base", None, seed);
    let layer = place.layer("layer", Some(&base), |tree| {
        fs::read(tree.join("a/n1")).unwrap();
        fs::read_dir(tree.join("a/b")).unwrap().count();
    });
    let trees = LazyTrees::new(|| read(&place, &layer), || read(&place, &base).map(Some));
    let changes = place.store.changes(&layer, &trees).unwrap();
    assert_eq!(diff::changes(&changes, &trees, &|_| false).unwrap(), []);
    trees.close().unwrap();
}

/// A quota beyond the size of the parent's file system enlarges it.
fn enlarged(options: &[(&str, &str)]) {
    const GIB: u64 = 1 << 30;
    let place = Place::new(options);
    let base = place.layer("base", None, seed);
    let quota = Quota { bytes: Some(GIB), inodes: None };
    let layer = place.create_with("layer", Some(&base), &LayerOptions { quota, ..LayerOptions::default() });
    place.edit(&layer, |tree| {
        let size = rustix::fs::statvfs(tree).unwrap();
        assert!(size.f_blocks * size.f_frsize > GIB, "{} blocks", size.f_blocks);
        fs::write(tree.join("a/b/n1"), "changed").unwrap();
        for dir in 0..20 {
            fs::create_dir(tree.join(format!("new-{dir}"))).unwrap();
        }
    });
    let layer = place.store.commit(layer).unwrap();
    let trees = LazyTrees::new(|| read(&place, &layer), || read(&place, &base).map(Some));
    agree(&place, layer.chain(), &trees).unwrap();
    trees.close().unwrap();
}

#[test]
fn a_layer_larger_than_its_parent_is_compared_as_well_on_ext4() {
    enlarged(&[]);
}

#[test]
fn a_layer_larger_than_its_parent_is_compared_as_well_on_xfs() {
    enlarged(&[("filesystem", "xfs")]);
}

/// What was written last is in the log alone then.
fn cut_off(options: &[(&str, &str)]) {
    let place = Place::new(options);
    let base = place.layer("base", None, seed);
    let layer = place.create("layer", Some(&base));
    let held = place.write(&layer);
    let tree = held.tree().path();
    fs::write(tree.join("a/new"), "new").unwrap();
    fs::rename(tree.join("a/n1"), tree.join("f/moved")).unwrap();
    sys::cut_off(tree).unwrap();
    // Nothing is lost, so that a file system may well end without an error.
    drop(held);
    let trees = LazyTrees::new(
        || mica_mount::Held::open(place.store.read(&layer, &MountOptions::default())?, &place.mounter()),
        || read(&place, &base).map(Some),
    );
    agree(&place, layer.chain(), &trees).unwrap();
    let told = diff::changes(&place.store.changes(&layer, &trees).unwrap(), &trees, &|_| false).unwrap();
    assert!(told.iter().any(|change| change.path == b"a/new"), "{told:?}");
    trees.close().unwrap();
}

#[test]
fn what_a_crash_left_in_the_log_is_among_the_changes_on_ext4() {
    cut_off(&[]);
}

#[test]
fn what_a_crash_left_in_the_log_is_among_the_changes_on_xfs() {
    cut_off(&[("filesystem", "xfs")]);
}

/// Set in the process that has no tool, to where the layers are.
const ROOT: &str = "MICA_TEST_ROOT";

#[test]
fn without_thin_delta_whole_trees_are_compared() {
    let layers = |names: &[&str]| {
        let parents = names.iter().skip(1).map(|name| common::id(name)).collect();
        Layer::<Committed>::recorded(common::id(names[0]), parents)
    };
    if let Some(root) = std::env::var_os(ROOT) {
        let store = common::open(Path::new(&root), &[]);
        let told = store.changes(&layers(&["layer", "base"]), &Nothing).unwrap();
        assert_eq!(told, Changes::Compare { only: None });
        let bytes = store.usage(&layers(&["layer", "base"])).unwrap().bytes;
        assert!(bytes >= 1 << 20, "a layer with a new file of 1 MiB uses {bytes} bytes");
        return;
    }
    let place = Place::new(&[]);
    let base = place.layer("base", None, seed);
    let layer =
        place.layer("layer", Some(&base), |tree| fs::write(tree.join("new"), vec![1; 1 << 20]).unwrap());
    assert_eq!(
        inodes(&place, &layer, &LazyTrees::new(|| read(&place, &layer), || read(&place, &base).map(Some)))
            .len(),
        2
    );
    let tools = tempfile::tempdir().unwrap();
    symlink("/usr/sbin/mkfs.ext4", tools.path().join("mkfs.ext4")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cheap::without_thin_delta_whole_trees_are_compared"])
        .env("PATH", tools.path())
        .env(ROOT, place.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
