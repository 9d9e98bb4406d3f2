//! A small disk for a data root, and filling it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

use crate::home::Home;

/// A file system of its own, mounted below the directory of a test.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// In memory.
    pub(crate) fn tmpfs(home: &Home, size: &str) -> Self {
        Self::mounted(home, &["-t", "tmpfs", "-o", &format!("size={size},nr_inodes=4096"), "mica-test"])
    }

    /// On a file.
    pub(crate) fn ext4(home: &Home, bytes: u64) -> Self {
        Self::made(home, "mkfs.ext4", bytes)
    }

    /// On a file, as small as it can be.
    pub(crate) fn xfs(home: &Home) -> Self {
        Self::made(home, "mkfs.xfs", 300 << 20)
    }

    fn made(home: &Home, mkfs: &str, bytes: u64) -> Self {
        let image = home.dir.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        assert!(Command::new(mkfs).arg("-q").arg(&image).status().unwrap().success());
        Self::mounted(home, &["-o", "loop", image.to_str().unwrap()])
    }

    fn mounted(home: &Home, arguments: &[&str]) -> Self {
        let path = home.dir.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(arguments).arg(&path).output().unwrap();
        assert!(mounted.status.success(), "{mounted:?}");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it until there is no room for a byte, for another directory, nor for another file.
    pub(crate) fn fill(&self) {
        let mut large = OpenOptions::new().create(true).append(true).open(self.0.join("large")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let content = vec![7; size];
            fill(|| large.write_all(&content));
            large.sync_all().unwrap();
        }
        let mut number = fs::read_dir(&self.0).unwrap().count()..;
        let mut next = || self.0.join(format!("small-{}", number.next().unwrap()));
        fill(|| fs::write(next(), "x"));
        fill(|| fs::create_dir(next()));
        fill(|| File::create(next()).map(drop));
    }
}

fn fill(mut write: impl FnMut() -> io::Result<()>) {
    loop {
        match write() {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => return,
            Err(e) => panic!("fill a disk: {e}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}
