//! On a file system that shares content between files, a layer takes only what it changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use mica_core::{Chain, LayerId, LayerOptions, OptionMap};

/// A file system in a file, mounted; unmounted when it is dropped.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn xfs() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(320 << 20).unwrap();
        match Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).status() {
            Ok(status) => assert!(status.success()),
            Err(_) => return None,
        }
        let mounted = Self { dir };
        fs::create_dir(mounted.path()).unwrap();
        let mount =
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(mounted.path()).output().unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--detach-loop").arg(self.path()).status();
    }
}

fn free(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_child_of_a_large_layer_takes_little_space() {
    let Some(mounted) = Mounted::xfs() else {
        eprintln!("skip: vfs/reflinks: no mkfs.xfs, from the package xfsprogs");
        return;
    };
    let root = mounted.path().join("vfs");
    fs::create_dir(&root).unwrap();
    let driver = (mica_vfs::DRIVER.open)(&root, &OptionMap::new()).unwrap();
    assert!(driver.capabilities().shared_data);
    let (base, child): (LayerId, LayerId) = ("base".parse().unwrap(), "child".parse().unwrap());
    let below = Chain { id: &base, parents: &[] };
    driver.create(below, &LayerOptions::default()).unwrap();
    fs::write(root.join("layers/base/tree/large"), vec![7; 100 << 20]).unwrap();
    driver.commit(below).unwrap();
    driver.sync(std::slice::from_ref(&base)).unwrap();

    let before = free(&root);
    let parents = [base];
    let chain = Chain { id: &child, parents: &parents };
    driver.create(chain, &LayerOptions::default()).unwrap();
    driver.sync(std::slice::from_ref(&child)).unwrap();
    // The file system may have given back meanwhile what it had set aside for the first layer.
    let taken = before.saturating_sub(free(&root));
    assert!(taken < 4 << 20, "{taken} bytes");
    assert_eq!(fs::read(root.join("layers/child/tree/large")).unwrap(), vec![7; 100 << 20]);
    assert!(driver.usage(chain).unwrap().bytes < 1 << 20);
    fs::write(root.join("layers/child/tree/new"), vec![1; 8 << 20]).unwrap();
    driver.sync(std::slice::from_ref(&child)).unwrap();
    assert!((8 << 20..10 << 20).contains(&driver.usage(chain).unwrap().bytes));
}
