//! What there is of a root outside the driver's own memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The loop devices on files below a directory, and the devices of the pool of the root in it.
pub(crate) fn devices(dir: &Path) -> BTreeSet<String> {
    let prefix = uuid(dir).map(|uuid| format!("mica-{}-", &uuid[..8]));
    let mut found = BTreeSet::new();
    for block in fs::read_dir("/sys/block").unwrap().flatten() {
        let read = |name: &str| fs::read_to_string(block.path().join(name)).unwrap_or_default();
        let file = read("loop/backing_file");
        if file.starts_with(dir.to_str().unwrap()) {
            found.insert(format!("{:?} on {file}", block.file_name()));
        }
        let name = read("dm/name");
        if prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix)) {
            found.insert(name.trim().to_owned());
        }
    }
    found
}

/// Fails unless all devices are gone. Where udev runs it may have one open for a moment longer.
pub(crate) fn rests(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !devices(dir).is_empty() {
        assert!(Instant::now() < deadline, "left active: {:?}", devices(dir));
        thread::sleep(Duration::from_millis(10));
    }
}

/// The node of a volume that is active.
pub(crate) fn device(dir: &Path, volume: u64) -> PathBuf {
    let name = format!("mica-{}-{volume}\n", &uuid(dir).unwrap()[..8]);
    let blocks = fs::read_dir("/sys/block").unwrap().flatten();
    let mut named =
        blocks.filter(|block| fs::read_to_string(block.path().join("dm/name")).is_ok_and(|is| is == name));
    Path::new("/dev").join(named.next().unwrap().file_name())
}

/// The volumes of a pool on files that is not active, as its metadata has them. No snapshot of those is held.
pub(crate) fn volumes(dir: &Path) -> BTreeSet<u64> {
    rests(dir);
    let metadata = dir.join("root/metadata");
    let mut held = [0; 8];
    fs::File::open(&metadata).unwrap().read_exact_at(&mut held, 56).unwrap();
    assert_eq!(held, [0; 8], "a snapshot of the metadata is held, at this block");
    let checked = Command::new("thin_check").arg("-q").arg(&metadata).status().unwrap();
    assert!(checked.success(), "the pool's metadata is damaged");
    let dump = Command::new("thin_dump").arg(&metadata).output().unwrap();
    let dump = String::from_utf8(dump.stdout).unwrap();
    assert!(dump.trim_end().ends_with("</superblock>"));
    let ids = dump.lines().filter_map(|line| line.trim().strip_prefix("<device dev_id=\""));
    ids.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

/// The volumes that records name in this part of a root.
pub(crate) fn recorded(dir: &Path, part: &str) -> BTreeSet<u64> {
    let entries = fs::read_dir(dir.join("root").join(part)).unwrap();
    entries
        .map(|entry| {
            let layer: serde_json::Value =
                serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
            layer["volume"].as_u64().unwrap()
        })
        .collect()
}

fn uuid(dir: &Path) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("root/pool")).ok()?).unwrap();
    Some(record["uuid"].as_str().unwrap().to_owned())
}
