//! File systems of the kernel on a device of their own, here a loop device.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use mica_core::mount::Fs;
use mica_core::{Error, MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Attached, Calls, Mounter, Tree};
use tempfile::TempDir;

/// An ext4 of 64 MiB that can keep no more than 8.
struct Disk {
    device: PathBuf,
    room: Option<Attached>,
    dir: TempDir,
}

impl Disk {
    /// `None`, and says so, where the kernel makes no loop devices.
    fn new(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = vec![("size".to_owned(), Some("8M".to_owned()))];
        let room = Fs { fstype: "tmpfs".to_owned(), source: "none".into(), options: size, ..Fs::default() };
        let at = dir.path().join("room");
        fs::create_dir(&at).unwrap();
        let room = open(dir.path(), room, Calls::best()).unwrap().attach(&at).unwrap();
        let image = room.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-J", "size=4"], &image).unwrap();
        match run("losetup", &["--find", "--show"], &image) {
            Ok(device) => Some(Self { device: device.into(), room: Some(room), dir }),
            Err(reason) => {
                eprintln!("skip: mount/{test}: {reason}");
                None
            }
        }
    }

    fn spec(&self) -> Fs {
        Fs { fstype: "ext4".to_owned(), source: self.device.clone(), ..Fs::default() }
    }

    fn open(&self, spec: Fs, calls: Calls) -> mica_core::Result<Tree> {
        open(self.dir.path(), spec, calls)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let detached = run("losetup", &["--detach"], &self.device);
        drop(self.room.take());
        if !std::thread::panicking() {
            detached.unwrap();
        }
    }
}

fn open(scratch: &Path, spec: Fs, calls: Calls) -> mica_core::Result<Tree> {
    let mounts = Mounts { specs: vec![MountSpec::Fs(spec)], whiteouts: WhiteoutForm::Merged };
    Mounter::new(scratch).with_calls(calls).open(&mounts)
}

/// What a program says, or why it failed.
fn run(program: &str, arguments: &[&str], path: &Path) -> Result<String, String> {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
    let text = text.trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn each(test: impl Fn(Calls)) {
    test(Calls::best());
    test(Calls::Classic);
}

#[test]
fn a_write_that_was_lost_is_an_error_of_closing_the_tree() {
    let name = "a_write_that_was_lost_is_an_error_of_closing_the_tree";
    each(|calls| {
        for attach in [false, true] {
            let Some(disk) = Disk::new(name) else { return };
            let tree = disk.open(disk.spec(), calls).unwrap();
            // More than the disk can keep; it is taken, since it is in memory.
            fs::write(tree.path().join("large"), vec![1; 24 << 20]).unwrap();
            let closed = if attach {
                let at = disk.dir.path().join("at");
                fs::create_dir(&at).unwrap();
                tree.attach(&at).unwrap().close()
            } else {
                tree.close()
            };
            assert!(closed.is_err(), "{calls:?}, attached: {attach}");
        }
    });
}

#[test]
fn a_tree_that_kept_all_its_writes_closes_well() {
    let Some(disk) = Disk::new("a_tree_that_kept_all_its_writes_closes_well") else { return };
    each(|calls| {
        let tree = disk.open(disk.spec(), calls).unwrap();
        fs::write(tree.path().join("small"), "kept").unwrap();
        tree.close().unwrap();
        let tree = disk.open(Fs { read_only: true, ..disk.spec() }, calls).unwrap();
        assert_eq!(fs::read(tree.path().join("small")).unwrap(), b"kept");
        tree.close().unwrap();
    });
}

#[test]
fn settings_of_a_file_system_are_made_before_anybody_has_the_tree() {
    let Some(disk) = Disk::new("settings_of_a_file_system_are_made_before_anybody_has_the_tree") else {
        return;
    };
    let shown = Path::new("/sys/fs/ext4").join(disk.device.file_name().unwrap());
    let with = |name: &str| Fs { settings: vec![(name.into(), "5".to_owned())], ..disk.spec() };
    each(|calls| {
        let tree = disk.open(with("mb_order2_req"), calls).unwrap();
        assert_eq!(fs::read_to_string(shown.join("mb_order2_req")).unwrap().trim(), "5");
        tree.close().unwrap();
        assert!(!shown.exists(), "{calls:?}");
        let error = disk.open(with("no_such_setting"), calls).unwrap_err();
        assert!(
            matches!(&error, Error::Driver { source, .. } if source.to_string().contains("no_such_setting"))
        );
        assert!(!shown.exists(), "it is mounted after an error by {calls:?}");
    });
}
