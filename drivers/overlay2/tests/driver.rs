//! What is particular to overlayfs. What every driver promises is in `conformance.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mica_core::{
    Access, Chain, Changes, Error, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest, MountSpec,
    Mounts, OptionMap, WhiteoutForm,
};
use mica_mount::{Mounter, Tree};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

/// A root with the layers `base`, committed, and `top` on it, writable.
struct Place {
    dir: TempDir,
    driver: Box<dyn GraphDriver>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = open(dir.path()).unwrap();
        driver.create(base(), &LayerOptions::default()).unwrap();
        fs::create_dir(dir.path().join("layers/base/diff/dir")).unwrap();
        fs::write(dir.path().join("layers/base/diff/file"), "below").unwrap();
        driver.commit(base()).unwrap();
        driver.create(top(), &LayerOptions::default()).unwrap();
        Self { dir, driver }
    }

    fn mounts(&self, chain: Chain<'_>, access: Access, options: MountOptions) -> Mounts {
        self.driver.mounts(chain, &MountRequest { access, options }).unwrap()
    }

    fn mount(&self, access: Access, options: MountOptions) -> Tree {
        Mounter::new(self.dir.path()).open(&self.mounts(top(), access, options)).unwrap()
    }

    fn diff(&self, name: &str) -> PathBuf {
        self.dir.path().join("layers/top/diff").join(name)
    }
}

fn open(root: &Path) -> mica_core::Result<Box<dyn GraphDriver>> {
    (mica_overlay2::DRIVER.open)(root, &OptionMap::new())
}

fn id(name: &str) -> &'static LayerId {
    Box::leak(Box::new(name.parse().unwrap()))
}

fn base() -> Chain<'static> {
    Chain { id: id("base"), parents: &[] }
}

fn top() -> Chain<'static> {
    Chain { id: id("top"), parents: std::slice::from_ref(id("base")) }
}

#[test]
fn changes_are_the_upper_directory_with_whiteouts_and_opaque_marks() {
    let place = Place::new();
    let tree = place.mount(Access::Write, MountOptions::default());
    fs::remove_file(tree.path().join("file")).unwrap();
    fs::remove_dir(tree.path().join("dir")).unwrap();
    fs::create_dir(tree.path().join("dir")).unwrap();
    tree.close().unwrap();
    struct Nothing;
    impl mica_core::Trees for Nothing {
        fn layer(&self) -> mica_core::Result<&Path> {
            panic!("a mount was asked for")
        }
        fn parent(&self) -> mica_core::Result<Option<&Path>> {
            panic!("a mount was asked for")
        }
    }
    let changes = place.driver.changes(top(), &Nothing).unwrap();
    let whiteouts = WhiteoutForm::Overlay { user_xattr: false };
    assert_eq!(changes, Changes::Upper { dir: place.diff(""), whiteouts });
    assert!(fs::metadata(place.diff("file")).unwrap().file_type().is_char_device());
    let mut mark = [0; 8];
    let length = rustix::fs::getxattr(place.diff("dir"), "trusted.overlay.opaque", &mut mark[..]).unwrap();
    assert_eq!(&mark[..length], b"y");
}

#[test]
fn a_renamed_directory_and_a_changed_mode_leave_no_redirect_and_no_file_without_data() {
    let place = Place::new();
    let tree = place.mount(Access::Write, MountOptions::default());
    let moved = fs::rename(tree.path().join("dir"), tree.path().join("moved"));
    assert_eq!(moved.unwrap_err().kind(), std::io::ErrorKind::CrossesDevices);
    fs::set_permissions(tree.path().join("file"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    tree.close().unwrap();
    assert_eq!(fs::read(place.diff("file")).unwrap(), b"below");
}

#[test]
fn scratch_space_is_there_only_while_a_layer_is_written() {
    let place = Place::new();
    let work = place.dir.path().join("layers/top/work");
    assert!(!work.exists());
    for options in [MountOptions::default(), MountOptions { volatile: true, ..MountOptions::default() }] {
        // A volatile mount leaves a mark there with which the kernel would refuse the next one.
        for _ in 0..2 {
            let tree = place.mount(Access::Write, options.clone());
            assert!(work.exists());
            tree.close().unwrap();
            place.driver.release(top(), Access::Write).unwrap();
            assert!(!work.exists());
        }
    }
}

#[test]
fn only_a_caller_that_permits_it_gets_a_volatile_mount() {
    let place = Place::new();
    let volatile = |permitted, options: &[(&str, &str)]| {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let driver = (mica_overlay2::DRIVER.open)(place.dir.path(), &options).unwrap();
        let wish = MountOptions { volatile: permitted, ..MountOptions::default() };
        let mounts = driver.mounts(top(), &MountRequest { access: Access::Write, options: wish }).unwrap();
        matches!(&mounts.specs[..], [MountSpec::Overlay(overlay)] if overlay.volatile)
    };
    assert!(volatile(true, &[]));
    assert!(!volatile(false, &[]));
    assert!(!volatile(true, &[("volatile", "false")]));
}

#[test]
fn a_base_layer_is_extracted_as_a_whole_tree_and_any_other_with_marks() {
    let place = Place::new();
    let driver = &place.driver;
    driver.create(Chain { id: id("plain"), parents: &[] }, &LayerOptions::default()).unwrap();
    let detached = LayerOptions { detached: true, ..LayerOptions::default() };
    driver.create(Chain { id: id("detached"), parents: &[] }, &detached).unwrap();
    let marks = WhiteoutForm::Overlay { user_xattr: false };
    for (layer, form) in [("plain", WhiteoutForm::Merged), ("detached", marks)] {
        let chain = Chain { id: id(layer), parents: &[] };
        assert_eq!(place.mounts(chain, Access::Apply, MountOptions::default()).whiteouts, form, "{layer}");
    }
    assert_eq!(place.mounts(top(), Access::Apply, MountOptions::default()).whiteouts, marks);
}

#[test]
fn a_detached_layer_takes_the_parents_root_unless_its_tarball_names_one() {
    let place = Place::new();
    let parent = place.dir.path().join("layers/base/diff");
    fs::set_permissions(&parent, std::os::unix::fs::PermissionsExt::from_mode(0o2751)).unwrap();
    std::os::unix::fs::chown(&parent, Some(5), Some(6)).unwrap();
    fs::set_permissions(&parent, std::os::unix::fs::PermissionsExt::from_mode(0o2751)).unwrap();
    rustix::fs::setxattr(&parent, "user.kept", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&parent, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    let detached = LayerOptions { detached: true, ..LayerOptions::default() };
    for (name, own) in [("follows", None), ("names", Some(0o755))] {
        place.driver.create(Chain { id: id(name), parents: &[] }, &detached).unwrap();
        let root = place.dir.path().join("layers").join(name).join("diff");
        if let Some(mode) = own {
            fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        place.driver.commit(Chain { id: id(name), parents: std::slice::from_ref(id("base")) }).unwrap();
        let found = fs::metadata(&root).unwrap();
        let expected = if own.is_some() { (0o755, 0, 0) } else { (0o2751, 5, 6) };
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), expected, "{name}");
        let attribute = |name| rustix::fs::getxattr(&root, name, &mut [0u8; 8][..]).is_ok();
        assert_eq!(
            (attribute("user.kept"), attribute("trusted.overlay.opaque")),
            (own.is_none(), false),
            "{name}"
        );
    }
}

#[test]
fn a_layer_without_its_directory_is_damaged_and_can_be_removed() {
    let place = Place::new();
    fs::remove_dir_all(place.diff("")).unwrap();
    let request = MountRequest { access: Access::Read, options: MountOptions::default() };
    assert!(matches!(place.driver.mounts(top(), &request), Err(Error::Corrupt { .. })));
    assert_eq!(place.driver.list().unwrap().len(), 2);
    place.driver.remove(id("top")).unwrap();
    assert_eq!(place.driver.list().unwrap().len(), 1);
}

#[test]
fn a_copy_holds_what_overlayfs_noted() {
    let place = Place::new();
    let tree = place.mount(Access::Write, MountOptions::default());
    fs::remove_file(tree.path().join("file")).unwrap();
    fs::remove_dir(tree.path().join("dir")).unwrap();
    fs::create_dir(tree.path().join("dir")).unwrap();
    let sparse = File::create(tree.path().join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    place.driver.duplicate(top(), id("copy")).unwrap();
    let copy = Chain { id: id("copy"), parents: top().parents };
    let tree = Mounter::new(place.dir.path())
        .open(&place.mounts(copy, Access::Read, MountOptions::default()))
        .unwrap();
    let mut names: Vec<_> =
        fs::read_dir(tree.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dir", "sparse"]);
    assert!(place.driver.usage(copy).unwrap().bytes < 1 << 20, "holes stay holes");
}

/// Mounts a file system for one test.
struct Other {
    dir: TempDir,
}

impl Other {
    fn new(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(arguments).arg(dir.path()).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { dir }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        rustix::mount::unmount(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_file_system_that_cannot_keep_layers_is_named_and_left_as_it_was() {
    let other = Other::new(&["-t", "ramfs", "none"]);
    let error = open(other.dir.path()).unwrap_err();
    let Error::Unavailable { reason } = error else { panic!("{error}") };
    assert!(reason.contains("extended attributes") && reason.contains("use a directory on"), "{reason}");
    assert_eq!(fs::read_dir(other.dir.path()).unwrap().count(), 0);
}

#[test]
fn layers_on_an_overlay_are_refused_with_what_would_work() {
    let lower = tempfile::tempdir().unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(lower.path().join(name)).unwrap();
    }
    let part = |name: &str| lower.path().join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
    let other = Other::new(&["-t", "overlay", "-o", &options, "overlay"]);
    match open(other.dir.path()) {
        Err(Error::Unavailable { reason }) => {
            assert!(reason.contains("overlayfs") && reason.contains("use a directory on"), "{reason}");
            assert_eq!(fs::read_dir(other.dir.path()).unwrap().count(), 0);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn in_a_user_namespace_marks_are_user_attributes() {
    // The test runs itself in there, for a process with threads cannot enter one.
    const INSIDE: &str = "MICA_TEST_ROOT";
    if let Ok(root) = std::env::var(INSIDE) {
        let driver = open(root.as_ref()).unwrap();
        let userxattr = ("userxattr".to_owned(), "true".to_owned());
        assert!(driver.status().unwrap().contains(&userxattr));
        driver.create(base(), &LayerOptions::default()).unwrap();
        fs::write(Path::new(&root).join("layers/base/diff/file"), "").unwrap();
        driver.commit(base()).unwrap();
        driver.create(top(), &LayerOptions::default()).unwrap();
        let request = MountRequest { access: Access::Write, options: MountOptions::default() };
        let tree = Mounter::new(&root).open(&driver.mounts(top(), &request).unwrap()).unwrap();
        fs::remove_file(tree.path().join("file")).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let inside = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_user_namespace_marks_are_user_attributes"])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
    assert!(
        fs::symlink_metadata(dir.path().join("layers/top/diff/file")).unwrap().file_type().is_char_device()
    );
}

#[test]
fn what_a_probe_found_is_used_until_the_next_boot() {
    let place = Place::new();
    let probed = place.dir.path().join("probed");
    let first = fs::metadata(&probed).unwrap().ino();
    open(place.dir.path()).unwrap();
    assert_eq!(fs::metadata(&probed).unwrap().ino(), first, "no second probe");
    fs::write(&probed, "of another boot\n").unwrap();
    open(place.dir.path()).unwrap();
    assert_ne!(fs::read_to_string(&probed).unwrap(), "of another boot\n");
}
