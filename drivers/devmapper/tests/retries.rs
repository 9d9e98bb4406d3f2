//! Who writes to an xfs in a full pool is told so, and not kept waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use common::Place;

/// More than that no call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes what is left of the pool.
fn fill(tree: &Path) -> io::Result<()> {
    let mut file = File::create(tree.join("large"))?;
    for number in 0..400u32 {
        file.write_all(&vec![number as u8 | 1; 1 << 20])?;
        file.sync_data()?;
    }
    Ok(())
}

/// Needs room for inodes and directories, a little at a time.
fn many(tree: &Path) -> io::Result<()> {
    for dir in 0..1000 {
        let dir = tree.join(format!("dir-{dir}"));
        fs::create_dir(&dir)?;
        for file in 0..20 {
            fs::write(dir.join(file.to_string()), "")?;
        }
        File::open(&dir)?.sync_all()?;
    }
    Ok(())
}

/// How often xfs tries to write metadata once more after this error: -1 is for ever.
fn retries(tree: &Path, error: &str) -> String {
    let device = fs::metadata(tree).unwrap().dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let device = fs::read_link(Path::new("/sys/dev/block").join(number)).unwrap();
    let settings = Path::new("/sys/fs/xfs").join(device.file_name().unwrap());
    let told = fs::read_to_string(settings.join(format!("error/metadata/{error}/max_retries"))).unwrap();
    told.trim().to_owned()
}

#[test]
fn a_writer_to_xfs_in_a_full_pool_gets_an_error_and_unmounting_ends() {
    let place = Place::new(&[("filesystem", "xfs"), ("file_size", "256M")]);
    let layer = place.create("layer", None);
    let held = place.write(&layer);
    for error in ["ENOSPC", "EIO", "default"] {
        assert_eq!(retries(held.tree().path(), error), "0", "after {error}");
    }
    let (sender, ends) = mpsc::channel();
    std::thread::spawn(move || {
        let tree = held.tree().path().to_owned();
        sender.send(("data", fill(&tree).is_err())).unwrap();
        sender.send(("metadata", many(&tree).is_err())).unwrap();
        sender.send(("what is in memory", held.close().is_err())).unwrap();
    });
    for what in ["data", "metadata", "what is in memory"] {
        let ended = ends.recv_timeout(PATIENCE);
        assert_eq!(ended, Ok((what, true)), "{what}");
    }
    place.store.remove(layer.id()).unwrap();
}
