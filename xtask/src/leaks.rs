//! What a run of tests may leave behind on the host, seen before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a supervisor that was told to end may still take.
const SETTLE: Duration = Duration::from_secs(5);

/// Everything on the host that tests make: one line each, such as `mount /tmp/x (overlay)`.
#[derive(Debug)]
pub(crate) struct Snapshot {
    target: PathBuf,
    things: BTreeSet<String>,
}

impl Snapshot {
    /// Takes stock. Processes whose program lies below `target` count as ours.
    pub(crate) fn take(target: &Path) -> Self {
        let mut things = BTreeSet::new();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        things.extend(mountinfo.lines().filter_map(mount));
        things.extend(block_devices());
        things.extend(
            names(Path::new("/run/netns")).into_iter().map(|name| format!("network namespace {name}")),
        );
        add_cgroups(Path::new("/sys/fs/cgroup"), &mut things);
        for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()) {
            things.extend(process(pid, target));
        }
        Self { target: target.to_owned(), things }
    }

    /// The differences of now to this snapshot: what came, once it has had time to go, and host mounts that went.
    pub(crate) fn differences(&self) -> Vec<String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let now = Self::take(&self.target);
            let came = now.things.difference(&self.things).map(|thing| format!("left behind: {thing}"));
            let went = self.things.difference(&now.things).filter(|thing| thing.starts_with("mount "));
            let went = went.map(|thing| format!("taken from the host: {thing}"));
            let differences: Vec<String> = came.chain(went).collect();
            if differences.is_empty() || Instant::now() > deadline {
                return differences;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A line of `/proc/self/mountinfo`; the mount's id tells two mounts on one path apart.
fn mount(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let (id, target) = (fields.next()?, fields.nth(3)?);
    let fstype = after.split(' ').next()?;
    Some(format!("mount {target} ({fstype}, id {id})"))
}

fn block_devices() -> Vec<String> {
    let mut devices = Vec::new();
    for name in names(Path::new("/sys/block")) {
        let dir = Path::new("/sys/block").join(&name);
        if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
            devices.push(format!("loop device {name} on {}", file.trim()));
        }
        if let Ok(mapped) = fs::read_to_string(dir.join("dm/name")) {
            devices.push(format!("device-mapper device {}", mapped.trim()));
        }
    }
    devices
}

/// Control groups with `mica` in their name, in whatever hierarchy.
fn add_cgroups(dir: &Path, things: &mut BTreeSet<String>) {
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_symlink() || !path.is_dir() {
            continue;
        }
        if name.contains("mica") {
            things.insert(format!("control group {}", path.display()));
        }
        add_cgroups(&path, things);
    }
}

/// A process of Mica's, by its name or its program, and the network namespace of any process.
fn process(pid: u32, target: &Path) -> Vec<String> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut things = Vec::new();
    if let Ok(net) = fs::read_link(proc.join("ns/net")) {
        things.push(format!("network namespace {}", net.display()));
    }
    let comm = fs::read_to_string(proc.join("comm")).unwrap_or_default();
    let exe = fs::read_link(proc.join("exe")).unwrap_or_default();
    let ours = comm.starts_with("mica") || (exe.starts_with(target) && comm.trim() != "xtask");
    if ours {
        let cmdline = fs::read(proc.join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        things.push(format!("process {pid} ({}): {}", comm.trim(), cmdline.trim()));
    }
    things
}

/// The names in a directory, none where it cannot be read.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_mount_is_told_by_path_type_and_id() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(line).unwrap(), "mount /mnt2 (ext3, id 36)");
    }

    #[test]
    fn a_process_of_a_test_is_seen_while_it_lives() {
        let target = PathBuf::from("/usr/bin");
        let mut child = Command::new("/usr/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let line = format!("process {} (", child.id());
        let seen = Snapshot::take(&target).things.iter().any(|thing| thing.starts_with(&line));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen);
        assert!(!Snapshot::take(&target).things.iter().any(|thing| thing.starts_with(&line)));
    }

    #[test]
    fn every_process_has_its_network_namespace_counted() {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let snapshot = Snapshot::take(Path::new("/nonexistent"));
        assert!(snapshot.things.contains(&format!("network namespace {}", own.display())));
    }
}
