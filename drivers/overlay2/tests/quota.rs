//! Limits of layers, on a real ext4 and a real xfs with project quota.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use caps::{CapSet, Capability};
use mica_core::{
    Access, Chain, Error, GraphDriver, LayerId, LayerOptions, MountOptions, MountRequest, OptionMap, Quota,
};
use mica_mount::{Mounter, Tree};
use tempfile::TempDir;

/// A file system in a file; unmounted, where it is mounted, when it is dropped.
struct Disk {
    dir: TempDir,
}

/// What makes a file system, and how large it is to be at the least.
type Kind = (&'static [&'static str], u64);

const EXT4: Kind = (&["mkfs.ext4", "-q", "-O", "quota,project"], 64 << 20);
const EXT4_WITHOUT: Kind = (&["mkfs.ext4", "-q", "-O", "^quota,^project"], 64 << 20);
const XFS: Kind = (&["mkfs.xfs", "-q"], 320 << 20);

impl Disk {
    /// One of this kind, mounted with these options; else what `mount` printed.
    fn new(kind: Kind, options: &str) -> Result<Self, String> {
        let disk = Self::formatted(kind);
        disk.mount(options)?;
        fs::create_dir(disk.root()).unwrap();
        Ok(disk)
    }

    /// One whose limits count; a kernel that cannot is a reason to skip the test.
    ///
    /// Such a kernel answers `EINVAL`, as it does to much else. But it takes the same image read-only, for which it
    /// needs no quota (`ext4_feature_set_ok`); whatever else is wrong shows there too, and fails the test.
    fn with_quota(test: &str) -> Option<Self> {
        let lack = "the kernel mounts no ext4 with quotas: it lacks CONFIG_QFMT_V2";
        Self::limited(EXT4, test, lack)
    }

    fn limited(kind: Kind, test: &str, lack: &str) -> Option<Self> {
        let printed = match Self::new(kind, "loop,prjquota") {
            Ok(disk) => return Some(disk),
            Err(printed) => printed,
        };
        // Two versions of mount(8) on one errno.
        let invalid = ["wrong fs type, bad option, bad superblock", "Invalid argument"];
        assert!(invalid.iter().any(|text| printed.contains(text)), "{printed}");
        Self::formatted(kind).mount("loop,ro").unwrap();
        eprintln!("skip: overlay2/{test}: {lack}");
        None
    }

    fn formatted((mkfs, size): Kind) -> Self {
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        File::create(disk.image()).unwrap().set_len(size).unwrap();
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(disk.image()));
        fs::create_dir(disk.mount_point()).unwrap();
        disk
    }

    /// Fails with what `mount` printed.
    fn mount(&self, options: &str) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.env("LC_ALL", "C").args(["-o", options]).arg(self.image()).arg(self.mount_point());
        let output = mount.output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn root(&self) -> PathBuf {
        self.mount_point().join("root")
    }

    fn open(&self, options: &[(&str, &str)]) -> mica_core::Result<Box<dyn GraphDriver>> {
        let options: OptionMap = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        (mica_overlay2::DRIVER.open)(&self.root(), &options)
    }

    /// A base layer with nothing in it, and on top of it one with these limits.
    fn layers(&self, driver: &dyn GraphDriver, quota: Quota) -> (LayerId, LayerId) {
        let (base, top): (LayerId, LayerId) = ("base".parse().unwrap(), "top".parse().unwrap());
        driver.create(Chain { id: &base, parents: &[] }, &LayerOptions::default()).unwrap();
        driver.commit(Chain { id: &base, parents: &[] }).unwrap();
        let options = LayerOptions { quota, ..LayerOptions::default() };
        driver.create(Chain { id: &top, parents: std::slice::from_ref(&base) }, &options).unwrap();
        (base, top)
    }

    fn write(&self, driver: &dyn GraphDriver, base: &LayerId, top: &LayerId) -> Tree {
        let chain = Chain { id: top, parents: std::slice::from_ref(base) };
        let request = MountRequest { access: Access::Write, options: MountOptions::default() };
        Mounter::new(self.dir.path()).open(&driver.mounts(chain, &request).unwrap()).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !fs::read_to_string("/proc/self/mounts").unwrap().contains(self.mount_point().to_str().unwrap()) {
            return;
        }
        let output = Command::new("umount").arg(self.mount_point()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || std::thread::panicking(), "{told}");
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Ext4 keeps no limits for who has this capability. A container has not.
fn as_a_container() {
    caps::drop(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap();
}

fn quota(bytes: Option<u64>, inodes: Option<u64>) -> Quota {
    Quota { bytes, inodes }
}

fn fill(dir: &Path, bytes: usize) -> io::Result<()> {
    fs::write(dir.join("filled"), vec![7u8; bytes])?;
    File::open(dir.join("filled"))?.sync_all()
}

#[test]
fn a_layer_with_a_quota_of_bytes_takes_that_much_and_no_more() {
    let Some(disk) = Disk::with_quota("a_layer_with_a_quota_of_bytes_takes_that_much_and_no_more") else {
        return;
    };
    let driver = disk.open(&[]).unwrap();
    assert!(driver.capabilities().quota_bytes.is_yes());
    let (base, top) = disk.layers(&*driver, quota(Some(1 << 20), None));
    let tree = disk.write(&*driver, &base, &top);
    as_a_container();
    fill(tree.path(), 1 << 20).unwrap();
    let error = fs::write(tree.path().join("more"), vec![7; 128 << 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    fs::remove_file(tree.path().join("filled")).unwrap();
    fill(tree.path(), 1 << 20).unwrap();
}

// It knows of no project before that is limited, where ext4 has a record of each; and tells ENOSPC of a project, not EDQUOT.
#[test]
fn xfs_keeps_limits_of_projects_that_it_never_heard_of() {
    let lack = "the kernel mounts no xfs with project quota: it lacks CONFIG_XFS_QUOTA";
    let Some(disk) = Disk::limited(XFS, "xfs_keeps_limits_of_projects_that_it_never_heard_of", lack) else {
        return;
    };
    let driver = disk.open(&[]).unwrap();
    let (base, top) = disk.layers(&*driver, quota(Some(1 << 20), Some(20)));
    let tree = disk.write(&*driver, &base, &top);
    as_a_container();
    fill(tree.path(), 1 << 20).unwrap();
    let error = fs::write(tree.path().join("more"), vec![7; 128 << 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    drop(tree);
    driver.remove(&top).unwrap();
    let (free, chain): (LayerId, _) = ("free".parse().unwrap(), std::slice::from_ref(&base));
    driver.create(Chain { id: &free, parents: chain }, &LayerOptions::default()).unwrap();
    fill(disk.write(&*driver, &base, &free).path(), 4 << 20).unwrap();
}

#[test]
fn a_layer_with_a_quota_of_inodes_takes_that_many_and_no_more() {
    let Some(disk) = Disk::with_quota("a_layer_with_a_quota_of_inodes_takes_that_many_and_no_more") else {
        return;
    };
    let driver = disk.open(&[]).unwrap();
    let (base, top) = disk.layers(&*driver, quota(None, Some(20)));
    let tree = disk.write(&*driver, &base, &top);
    as_a_container();
    for number in 0..20 {
        File::create(tree.path().join(number.to_string())).unwrap();
    }
    let error = File::create(tree.path().join("one more")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
}

#[test]
fn one_layers_quota_is_not_anothers_and_a_removed_layer_leaves_no_limit() {
    let Some(disk) = Disk::with_quota("one_layers_quota_is_not_anothers_and_a_removed_layer_leaves_no_limit")
    else {
        return;
    };
    let driver = disk.open(&[]).unwrap();
    let (base, top) = disk.layers(&*driver, quota(Some(1 << 20), None));
    let free: LayerId = "free".parse().unwrap();
    driver
        .create(Chain { id: &free, parents: std::slice::from_ref(&base) }, &LayerOptions::default())
        .unwrap();
    let tree = disk.write(&*driver, &base, &free);
    as_a_container();
    fill(tree.path(), 4 << 20).unwrap();
    drop(tree);
    driver.remove(&free).unwrap();
    let was = project(&disk, &top);
    driver.remove(&top).unwrap();
    let plain = disk.mount_point().join("plain");
    fs::create_dir(&plain).unwrap();
    run(Command::new("chattr").args(["+P", "-p", &was]).arg(&plain));
    fill(&plain, 4 << 20).unwrap();
}

/// The project that a layer's directory belongs to.
fn project(disk: &Disk, id: &LayerId) -> String {
    let listed =
        Command::new("lsattr").arg("-pd").arg(disk.root().join(format!("layers/{id}/diff"))).output();
    String::from_utf8(listed.unwrap().stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn layers_made_at_once_get_projects_of_their_own() {
    let Some(disk) = Disk::with_quota("layers_made_at_once_get_projects_of_their_own") else { return };
    let ids: Vec<LayerId> = (0..16).map(|n| format!("layer-{n}").parse().unwrap()).collect();
    std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(|| {
                // Another opening each, as another process has.
                let options = LayerOptions { quota: quota(Some(1 << 20), None), ..LayerOptions::default() };
                disk.open(&[]).unwrap().create(Chain { id, parents: &[] }, &options).unwrap();
            });
        }
    });
    let mut projects: Vec<String> = ids.iter().map(|id| project(&disk, id)).collect();
    projects.sort();
    projects.dedup();
    assert_eq!(projects.len(), ids.len());
    assert!(!projects.contains(&"0".to_owned()), "0 is no project");
}

#[test]
fn the_drivers_options_limit_what_is_written_but_not_what_is_extracted() {
    let Some(disk) = Disk::with_quota("the_drivers_options_limit_what_is_written_but_not_what_is_extracted")
    else {
        return;
    };
    let driver = disk.open(&[("size", "1M"), ("inodes", "100")]).unwrap();
    let (base, top) = disk.layers(&*driver, Quota::default());
    let image: LayerId = "image".parse().unwrap();
    let chain = Chain { id: &image, parents: std::slice::from_ref(&base) };
    driver.create(chain, &LayerOptions::default()).unwrap();
    let request = MountRequest { access: Access::Apply, options: MountOptions::default() };
    let apply = Mounter::new(disk.dir.path()).open(&driver.mounts(chain, &request).unwrap()).unwrap();
    let write = disk.write(&*driver, &base, &top);
    as_a_container();
    fill(apply.path(), 4 << 20).unwrap();
    assert_eq!(fill(write.path(), 4 << 20).unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
}

#[test]
fn a_copy_of_a_limited_layer_has_no_limit() {
    let Some(disk) = Disk::with_quota("a_copy_of_a_limited_layer_has_no_limit") else { return };
    let driver = disk.open(&[]).unwrap();
    let (base, top) = disk.layers(&*driver, quota(Some(1 << 20), None));
    let copy: LayerId = "copy".parse().unwrap();
    driver.duplicate(Chain { id: &top, parents: std::slice::from_ref(&base) }, &copy).unwrap();
    let tree = disk.write(&*driver, &base, &copy);
    as_a_container();
    fill(tree.path(), 4 << 20).unwrap();
}

#[test]
fn where_there_is_no_project_quota_the_reason_is_told() {
    let disk = Disk::new(EXT4_WITHOUT, "loop").unwrap();
    let text = disk.open(&[("size", "1M")]).unwrap_err().to_string();
    assert!(text.contains("overlay2.size") && text.contains("'prjquota'"), "{text}");
    assert_eq!(fs::read_dir(disk.root()).unwrap().count(), 0);
    let driver = disk.open(&[]).unwrap();
    let mica_core::Support::No { reason } = driver.capabilities().quota_bytes.clone() else {
        panic!("claimed");
    };
    assert!(reason.contains("'prjquota'"), "{reason}");
    let id: LayerId = "layer".parse().unwrap();
    let options = LayerOptions { quota: quota(Some(1 << 20), None), ..LayerOptions::default() };
    let refused = driver.create(Chain { id: &id, parents: &[] }, &options);
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    assert!(driver.list().unwrap().is_empty());
}

#[test]
fn quotas_that_leave_no_room_are_refused() {
    let Some(disk) = Disk::with_quota("quotas_that_leave_no_room_are_refused") else { return };
    let driver = disk.open(&[]).unwrap();
    for quota in [quota(Some(0), None), quota(None, Some(0))] {
        let options = LayerOptions { quota, ..LayerOptions::default() };
        let id: LayerId = "layer".parse().unwrap();
        let refused = driver.create(Chain { id: &id, parents: &[] }, &options);
        assert!(matches!(refused, Err(Error::Options(_))), "{refused:?}");
    }
}
