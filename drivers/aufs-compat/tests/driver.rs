//! How layers are kept, and what is asked of the helper. What every driver promises is in `conformance.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use mica_aufs_compat::DRIVER;
use mica_core::{
    Access, Chain, Error, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest, MountSpec,
    OptionMap,
};
use mica_mount::{Mounter, Tree};
use tempfile::TempDir;

/// A root with the layers `base` and `middle`, committed, and `top`, writable, one on the other.
struct Place {
    dir: TempDir,
    driver: Box<dyn GraphDriver>,
}

impl Place {
    fn new(options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = open(dir.path(), options).unwrap();
        for name in ["base", "middle", "top"] {
            driver.create(chain(name), &LayerOptions::default()).unwrap();
            if name != "top" {
                driver.commit(chain(name)).unwrap();
            }
        }
        Self { dir, driver }
    }

    fn file(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    fn names(&self, part: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(part)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The tree of a layer, mounted.
    fn mount(&self, chain: Chain<'_>, access: Access) -> Tree {
        let request = MountRequest { access, options: MountOptions::default() };
        let mounts = self.driver.mounts(chain, &request).unwrap();
        let mounter = Mounter::new(self.dir.path()).with_helper([env!("CARGO_BIN_EXE_mica-aufs"), "--serve"]);
        mounter.open(&mounts).unwrap()
    }

    /// Two names of one file in `middle`, which is read through `top`.
    fn with_a_hard_link() -> Self {
        let place = Self::new(&[]);
        let middle = place.dir.path().join("diff/middle");
        fs::create_dir(middle.join("dir")).unwrap();
        fs::write(middle.join("first"), "below").unwrap();
        fs::hard_link(middle.join("first"), middle.join("dir/second")).unwrap();
        place
    }

    /// What the helper is told, with the root left out.
    fn helper(&self, name: &str, access: Access, options: MountOptions) -> (Vec<String>, bool) {
        let mounts = self.driver.mounts(chain(name), &MountRequest { access, options }).unwrap();
        let [MountSpec::Helper(helper)] = &mounts.specs[..] else { panic!("{mounts:?}") };
        assert_eq!(helper.driver, DRIVER.name);
        let root = format!("{}/", self.dir.path().display());
        let args = helper.args.iter().map(|arg| arg.to_str().unwrap().replace(&root, ""));
        (args.collect(), helper.read_only)
    }
}

fn open(root: &Path, options: &[(&str, &str)]) -> mica_core::Result<Box<dyn GraphDriver>> {
    let options: OptionMap = options.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    (DRIVER.open)(root, &options)
}

/// The chain of the layer of this name; it lives as long as the process, which is one test.
fn chain(name: &str) -> Chain<'static> {
    let all = ["middle", "base"];
    let parents = match name {
        "base" => &all[2..],
        "middle" => &all[1..],
        _ => &all[..],
    };
    let ids: Vec<LayerId> = parents.iter().map(|name| name.parse().unwrap()).collect();
    Chain { id: Box::leak(Box::new(name.parse().unwrap())), parents: Vec::leak(ids) }
}

#[test]
fn layers_are_kept_as_docker_kept_them() {
    let place = Place::new(&[]);
    for part in ["diff", "layers"] {
        assert_eq!(place.names(part), ["base", "middle", "top"], "{part}");
    }
    assert_eq!(place.file("layers/top"), "middle\nbase\n");
    assert_eq!(place.file("layers/base"), "");
    assert!(place.names("mnt").is_empty());
    let mode = |path: &str| fs::metadata(place.dir.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("diff/top"), mode("layers/top"), mode("layers/middle")), (0o755, 0o644, 0o444));
    place.driver.remove(chain("top").id).unwrap();
    for part in ["diff", "layers"] {
        assert_eq!(place.names(part), ["base", "middle"], "{part}");
    }
}

#[test]
fn a_layer_that_docker_left_is_one_and_is_writable() {
    let place = Place::new(&[]);
    fs::create_dir(place.dir.path().join("diff/0123-init")).unwrap();
    fs::write(place.dir.path().join("layers/0123-init"), "middle\nbase\n").unwrap();
    let parents = chain("top").parents;
    let left: LayerId = "0123-init".parse().unwrap();
    assert!(place.driver.list().unwrap().contains(&left));
    place.driver.commit(Chain { id: &left, parents }).unwrap();
    assert_eq!(place.file("layers/0123-init"), "middle\nbase\n");
}

#[test]
fn a_union_is_the_layers_branch_over_those_of_its_parents() {
    let place = Place::new(&[]);
    let below = ["diff/middle=ro+wh", "diff/base=ro+wh"];
    let (args, read_only) = place.helper("top", Access::Write, MountOptions::default());
    assert_eq!((args[0].as_str(), read_only), ("diff/top=rw", false));
    assert_eq!(args[1..], below);
    let (args, read_only) = place.helper("top", Access::Read, MountOptions::default());
    assert_eq!((args[0].as_str(), read_only), ("diff/top=ro+wh", true));
    let (args, _) = place.helper("middle", Access::Read, MountOptions::default());
    assert_eq!(args, below);
}

#[test]
fn options_reach_the_helper_and_a_mount_is_volatile_only_where_that_is_permitted() {
    let volatile = MountOptions { volatile: true, ..MountOptions::default() };
    let told = |options: &[(&str, &str)], request: &MountOptions| {
        let args = Place::new(options).helper("top", Access::Write, request.clone()).0;
        if args[0] == "-o" { args[1].clone() } else { String::new() }
    };
    assert_eq!(told(&[], &MountOptions::default()), "");
    assert_eq!(told(&[], &volatile), "volatile");
    assert_eq!(told(&[("volatile", "false")], &volatile), "");
    let all = [("passthrough", "false"), ("stale_reads", "true"), ("threads", "3")];
    assert_eq!(told(&all, &volatile), "stale_reads,volatile,nopassthrough,threads=3");
}

#[test]
fn the_label_of_a_request_is_in_the_mount() {
    let place = Place::new(&[]);
    let label = Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned());
    let options = MountOptions { label: label.clone(), ..MountOptions::default() };
    let mounts = place.driver.mounts(chain("top"), &MountRequest { access: Access::Write, options }).unwrap();
    assert!(matches!(&mounts.specs[..], [MountSpec::Helper(helper)] if helper.label == label));
}

#[test]
fn branches_are_shown_as_aufs_shows_them() {
    let place = Place::new(&[]);
    let rows = place.driver.layer_status(chain("top")).unwrap();
    let root = place.dir.path().display();
    let expected = [
        ("UpperDir", format!("{root}/diff/top")),
        ("br0", format!("{root}/diff/top=rw")),
        ("br1", format!("{root}/diff/middle=ro+wh")),
        ("br2", format!("{root}/diff/base=ro+wh")),
    ];
    assert_eq!(rows, expected.map(|(name, value)| (name.to_owned(), value)));
    assert!(place.driver.layer_status(chain("middle")).unwrap()[1].1.ends_with("=ro+wh"));
}

#[test]
fn a_copy_leaves_out_what_aufs_keeps_for_itself() {
    let place = Place::new(&[]);
    let top = place.dir.path().join("diff/top");
    fs::create_dir_all(top.join(".wh..wh.orph")).unwrap();
    fs::create_dir_all(top.join("dir/.wh..wh.gone.0a1f/below")).unwrap();
    for name in [".wh..wh.aufs", ".wh..wh.orph/1", "dir/.wh..wh..opq", "dir/.wh.file", "dir/.whether"] {
        fs::write(top.join(name), "").unwrap();
    }
    let copy: LayerId = "copy".parse().unwrap();
    place.driver.duplicate(chain("top"), &copy).unwrap();
    assert_eq!(place.names("diff/copy"), ["dir"]);
    assert_eq!(place.names("diff/copy/dir"), [".wh..wh..opq", ".wh.file", ".whether"]);
    assert_eq!(place.file("layers/copy"), "middle\nbase\n");
}

#[test]
fn a_copy_of_a_mounted_layer_has_every_name_of_a_hard_link() {
    let place = Place::with_a_hard_link();
    let tree = place.mount(chain("top"), Access::Write);
    fs::write(tree.path().join("first"), "above").unwrap();
    let copy: LayerId = "copy".parse().unwrap();
    place.driver.duplicate(chain("top"), &copy).unwrap();
    tree.close().unwrap();
    assert_eq!(place.file("diff/copy/dir/second"), "above");
    let inode = |path: &str| fs::metadata(place.dir.path().join("diff/copy").join(path)).unwrap().ino();
    assert_eq!(inode("first"), inode("dir/second"));
}

#[test]
fn a_layer_whose_helper_was_killed_is_committed_with_every_name_of_a_hard_link() {
    let place = Place::with_a_hard_link();
    let tree = place.mount(chain("top"), Access::Write);
    fs::write(tree.path().join("dir/second"), "above").unwrap();
    let pid = rustix::process::Pid::from_raw(tree.helper_pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(tree.close().unwrap_err().to_string().contains("signal: 9"));
    assert!(!place.dir.path().join("diff/top/first").exists());
    place.driver.commit(chain("top")).unwrap();
    assert_eq!(place.file("diff/top/first"), "above");
}

#[test]
fn a_layer_without_its_record_is_damaged_and_can_be_removed() {
    let place = Place::new(&[]);
    fs::remove_file(place.dir.path().join("layers/top")).unwrap();
    let request = MountRequest { access: Access::Read, options: MountOptions::default() };
    let error = place.driver.mounts(chain("top"), &request).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { .. }), "{error}");
    place.driver.remove(chain("top").id).unwrap();
    assert_eq!(place.driver.list().unwrap().len(), 2);
}

#[test]
fn a_record_without_a_layer_goes_when_nobody_makes_that_layer() {
    let place = Place::new(&[]);
    let stale = place.dir.path().join("layers/stale");
    fs::write(&stale, "base\n").unwrap();
    let making = fs::File::open(place.dir.path().join("layers")).unwrap();
    making.lock_shared().unwrap();
    open(place.dir.path(), &[]).unwrap();
    assert!(stale.exists());
    drop(making);
    open(place.dir.path(), &[]).unwrap();
    assert_eq!(place.names("layers"), ["base", "middle", "top"]);
}

/// A file system that is mounted for one test.
struct Other(TempDir);

impl Other {
    fn new(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(arguments).arg(dir.path()).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(dir)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_file_system_that_cannot_hold_branches_is_named_and_left_as_it_was() {
    let other = Other::new(&["-t", "ramfs", "none"]);
    let Err(Error::Unavailable { reason }) = open(other.0.path(), &[]) else { panic!("it opens") };
    assert!(reason.contains("extended attributes") && reason.contains("use a directory on"), "{reason}");
    assert_eq!(fs::read_dir(other.0.path()).unwrap().count(), 0);
}

#[test]
fn without_fuse_the_driver_says_what_is_missing() {
    // The test runs itself where /dev is empty, and what is needed of it is open.
    const INSIDE: &str = "MICA_TEST_INSIDE";
    const ENTER: &str = "exec 9< \"$0\" && mount -t tmpfs none /dev && exec /proc/self/fd/9 \"$@\"";
    if std::env::var(INSIDE).is_ok() {
        let Err(Error::Unavailable { reason }) = open(".".as_ref(), &[]) else { panic!("it opens") };
        assert!(reason.contains("/dev/fuse") && reason.contains("modprobe fuse"), "{reason}");
        assert_eq!(fs::read_dir(".").unwrap().count(), 0);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let inside = Command::new("unshare")
        .args(["--mount", "sh", "-c", ENTER])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "without_fuse_the_driver_says_what_is_missing"])
        .env(INSIDE, "")
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
}
