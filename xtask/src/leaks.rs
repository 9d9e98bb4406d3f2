//! What a run of tests may leave behind on the host, seen before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a supervisor that was told to end may still take.
const SETTLE: Duration = Duration::from_secs(5);

/// Everything on the host that tests make, such as `mount /tmp/x (overlay, id 36)`, each with what more is known.
#[derive(Debug)]
pub(crate) struct Snapshot {
    target: PathBuf,
    things: BTreeMap<String, String>,
}

impl Snapshot {
    /// Takes stock. Processes whose program lies below `target` count as ours.
    pub(crate) fn take(target: &Path) -> Self {
        let mut things = BTreeMap::new();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mounts = mountinfo.lines().filter_map(mount);
        let spaces =
            names(Path::new("/run/netns")).into_iter().map(|name| format!("network namespace {name}"));
        let cgroups = cgroups(Path::new("/sys/fs/cgroup"));
        let named = mounts.chain(block_devices()).chain(spaces).chain(cgroups);
        things.extend(named.map(|thing| (thing, String::new())));
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
            let came = now.things.iter().filter(|(thing, _)| !self.things.contains_key(*thing));
            let came = came.map(|(thing, more)| format!("left behind: {thing}{more}"));
            let went = self.things.keys().filter(|thing| !now.things.contains_key(*thing));
            let went = went.filter(|thing| thing.starts_with("mount "));
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
fn cgroups(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_symlink() || !path.is_dir() {
            continue;
        }
        if name.contains("mica") {
            found.push(format!("control group {}", path.display()));
        }
        found.extend(cgroups(&path));
    }
    found
}

/// A process of Mica's, by its name or its program, and the network namespace of any process.
fn process(pid: u32, target: &Path) -> Vec<(String, String)> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let comm = fs::read_to_string(proc.join("comm")).unwrap_or_default();
    let comm = comm.trim();
    let mut things = Vec::new();
    if let Ok(net) = fs::read_link(proc.join("ns/net")) {
        things.push((format!("network namespace {}", net.display()), format!(", held by {pid} ({comm})")));
    }
    let exe = fs::read_link(proc.join("exe")).unwrap_or_default();
    if comm.starts_with("mica") || (exe.starts_with(target) && comm != "xtask") {
        let cmdline = fs::read(proc.join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        things.push((format!("process {pid} ({comm})"), format!(": {}", cmdline.trim())));
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
        let seen = Snapshot::take(&target).things.keys().any(|thing| thing.starts_with(&line));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen);
        assert!(!Snapshot::take(&target).things.keys().any(|thing| thing.starts_with(&line)));
    }

    #[test]
    fn every_process_has_its_network_namespace_counted() {
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let snapshot = Snapshot::take(Path::new("/nonexistent"));
        assert!(snapshot.things.contains_key(&format!("network namespace {}", own.display())));
    }
}
