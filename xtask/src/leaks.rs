//! What a run of tests may leave behind on the host, seen before and after.
//!
//! The host does other work meanwhile, perhaps another run of the same tests. So a thing counts as this run's only if
//! it leads to this run's directory: a mount there, a loop device on a file there, what networks keep below `/run` for a
//! data root there, a process that was told of it or has its root there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a supervisor that was told to end may still take.
const SETTLE: Duration = Duration::from_secs(5);

/// Everything that tests made and the host still has, such as `mount /var/tmp/x (overlay, id 36)`, each with what more
/// is known; and the host's own mounts.
#[derive(Debug)]
pub(crate) struct Snapshot {
    scratch: PathBuf,
    things: BTreeMap<String, String>,
    hosts: Vec<String>,
}

impl Snapshot {
    /// Takes stock. `scratch` is the directory of this run, for temporary files: an absolute path that nobody else has.
    pub(crate) fn take(scratch: &Path) -> Self {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut things = BTreeMap::new();
        let mounts = mountinfo.lines().filter(|line| leads_to(line, scratch)).filter_map(mount);
        let named = mounts
            .chain(loops(scratch))
            .chain(runs(Path::new("/run/mica"), scratch))
            .chain(abandoned_groups(Path::new("/sys/fs/cgroup")));
        things.extend(named.map(|thing| (thing, String::new())));
        for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()) {
            things.extend(process(pid, scratch));
        }
        let hosts = mountinfo.lines().filter(|line| is_the_kernels(line)).filter_map(mount).collect();
        Self { scratch: scratch.to_owned(), things, hosts }
    }

    /// The differences of now to this snapshot: what came and is still there after it has had time to go, and mounts
    /// of the host that went.
    pub(crate) fn differences(&self) -> Vec<String> {
        self.differences_after(SETTLE)
    }

    fn differences_after(&self, settle: Duration) -> Vec<String> {
        let deadline = Instant::now() + settle;
        let mut now = Self::take(&self.scratch);
        loop {
            now.things.retain(|thing, _| !self.things.contains_key(thing));
            let went = self.hosts.iter().filter(|mount| !now.hosts.contains(mount));
            let went = went.map(|mount| format!("taken from the host: {mount}"));
            let came = now.things.iter().map(|(thing, more)| format!("left behind: {thing}{more}"));
            let differences: Vec<String> = came.chain(went).collect();
            if differences.is_empty() || Instant::now() > deadline {
                return differences;
            }
            std::thread::sleep(Duration::from_millis(100));
            // What somebody else has for a moment is not there at each look.
            let again = Self::take(&self.scratch);
            now.things.retain(|thing, _| again.things.contains_key(thing));
            now.hosts = again.hosts;
        }
    }
}

/// Whether text names a path in a directory, or the directory itself.
fn leads_to(text: &str, dir: &Path) -> bool {
    let dir = dir.to_string_lossy();
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c));
    text.match_indices(&*dir).any(|(at, _)| ends(&text[at + dir.len()..]))
}

/// A line of `/proc/self/mountinfo`; the mount's id tells two mounts on one path apart.
fn mount(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let (id, target) = (fields.next()?, fields.nth(3)?);
    let fstype = after.split(' ').next()?;
    Some(format!("mount {target} ({fstype}, id {id})"))
}

/// Whether a line of `/proc/self/mountinfo` is of a file system that every host has and every container gets: what a
/// test would take from the host by mistake.
fn is_the_kernels(line: &str) -> bool {
    const TYPES: [&str; 7] = ["proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "devpts", "mqueue"];
    let target = line.split(' ').nth(4).map(Path::new);
    let fstype = line.split_once(" - ").and_then(|(_, after)| after.split(' ').next());
    target.is_some_and(|target| ["/proc", "/sys", "/dev"].iter().any(|dir| target.starts_with(dir)))
        && fstype.is_some_and(|fstype| TYPES.contains(&fstype))
}

/// Loop devices on files in a directory.
fn loops(dir: &Path) -> Vec<String> {
    let devices = names(Path::new("/sys/block")).into_iter();
    let backed = devices.filter_map(|name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        leads_to(&file, dir).then(|| format!("loop device {name} on {}", file.trim()))
    });
    backed.collect()
}

/// What networks keep for data roots in a directory: each names its root by a link.
fn runs(run: &Path, scratch: &Path) -> Vec<String> {
    let owners = names(run).into_iter().map(|owner| run.join(owner));
    let of_scratch = owners.filter_map(|dir| {
        let root = fs::read_link(dir.join("root")).ok().filter(|root| root.starts_with(scratch))?;
        Some(format!("{} of the data root {}", dir.display(), root.display()))
    });
    of_scratch.collect()
}

/// Control groups with `mica` in their name, in whatever hierarchy, that hold no process: those of another run do.
fn abandoned_groups(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(dir) {
        let path = dir.join(&name);
        if path.is_symlink() || !path.is_dir() {
            continue;
        }
        if name.contains("mica") && !holds_a_process(&path) {
            found.push(format!("control group {}", path.display()));
        }
        found.extend(abandoned_groups(&path));
    }
    found
}

fn holds_a_process(group: &Path) -> bool {
    let mut below = names(group).into_iter().map(|name| group.join(name)).filter(|path| path.is_dir());
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|list| !list.is_empty())
        || below.any(|path| holds_a_process(&path))
}

/// A process that was given this directory (its environment, an argument) or whose root is in it, and its network
/// namespace where that is not ours. An xtask is no test.
fn process(pid: u32, scratch: &Path) -> Vec<(String, String)> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let read = |file: &str| {
        let text = fs::read(proc.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', " ")
    };
    let (comm, cmdline) = (read("comm"), read("cmdline"));
    let comm = comm.trim();
    let has_its_root_there = || {
        let mountinfo = read("mountinfo");
        let root = mountinfo.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        root.is_some_and(|line| leads_to(line, scratch))
    };
    if comm == "xtask"
        || !(leads_to(&cmdline, scratch) || leads_to(&read("environ"), scratch) || has_its_root_there())
    {
        return Vec::new();
    }
    let mut things = vec![(format!("process {pid} ({comm})"), format!(": {}", cmdline.trim()))];
    let net = |proc: &Path| fs::read_link(proc.join("ns/net")).ok();
    if let Some(net) = net(&proc).filter(|found| net(Path::new("/proc/self")).as_ref() != Some(found)) {
        things.push((format!("network namespace {}", net.display()), format!(", held by {pid} ({comm})")));
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
    use std::process::{Child, Command, Stdio};

    const SCRATCH: &str = "/var/tmp/mica-test.5";

    #[test]
    fn a_mount_is_told_by_path_type_and_id() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(line).unwrap(), "mount /mnt2 (ext3, id 36)");
    }

    #[test]
    fn a_mount_is_this_runs_by_its_target_its_source_or_its_layers() {
        let ours = |line: &str| leads_to(line, Path::new(SCRATCH));
        assert!(ours("36 35 0:40 / /var/tmp/mica-test.5/a/merged rw - tmpfs none rw"));
        assert!(ours("36 35 254:0 /var/tmp/mica-test.5 /mnt rw - ext4 /dev/vda rw"));
        assert!(ours(
            "36 35 0:40 / /mnt rw - overlay overlay rw,lowerdir+=/usr,upperdir=/var/tmp/mica-test.5/up,workdir=/w"
        ));
        assert!(!ours("36 35 0:40 / /var/tmp/mica-test.55/a rw - tmpfs none rw"));
        assert!(!ours("36 35 0:40 / /tmp/other rw - tmpfs none rw"));
    }

    #[test]
    fn the_kernels_file_systems_are_the_hosts_and_what_others_mount_is_not() {
        assert!(is_the_kernels("30 24 0:27 / /sys/fs/cgroup/pids rw - cgroup none rw,pids"));
        assert!(is_the_kernels("22 27 0:21 / /proc rw,nosuid - proc proc rw"));
        assert!(!is_the_kernels("36 35 0:40 / /var/tmp/x/proc rw - proc proc rw"));
        assert!(!is_the_kernels("36 35 0:40 / /dev/shm/bench rw - ext4 /dev/loop0 rw"));
    }

    /// A process that ends with the value.
    struct Sleeper(Child);

    impl Sleeper {
        fn new(command: &mut Command) -> Self {
            Self(command.arg("1000").stdin(Stdio::null()).spawn().unwrap())
        }

        fn is_in(&self, snapshot: &Snapshot) -> bool {
            snapshot.things.contains_key(&format!("process {} (sleep)", self.0.id()))
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_of_this_run_is_seen_while_it_lives_and_others_are_not() {
        let sleep = || Command::new("/usr/bin/sleep");
        let ours = Sleeper::new(sleep().env("TMPDIR", SCRATCH));
        let others = Sleeper::new(sleep().env("TMPDIR", "/var/tmp/mica-test.55"));
        let before = Snapshot::take(Path::new(SCRATCH));
        assert!(ours.is_in(&before) && !others.is_in(&before));
        let pid = ours.0.id();
        drop(ours);
        let after = Snapshot::take(Path::new(SCRATCH));
        assert!(!after.things.keys().any(|thing| thing.starts_with(&format!("process {pid} "))));
    }

    /// A directory with a tmpfs on it; both go with the value.
    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_mount_in_the_scratch_directory_is_this_runs() {
        let place = Mounted(std::env::temp_dir().join(format!("leaks.{}", std::process::id())));
        fs::create_dir(&place.0).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place.0).status();
        assert!(mount.unwrap().success());
        let told = format!("mount {} (tmpfs, ", place.0.display());
        let seen = |scratch: &Path| Snapshot::take(scratch).things.keys().any(|key| key.starts_with(&told));
        assert!(seen(&place.0) && !seen(Path::new(SCRATCH)));
        let dir = place.0.clone();
        drop(place);
        assert!(!seen(&dir));
    }

    #[test]
    fn what_networks_keep_for_a_data_root_of_this_run_is_seen() {
        let run = Mounted(std::env::temp_dir().join(format!("runs.{}", std::process::id())));
        for (owner, root) in [("ours", "/var/tmp/mica-test.5/a/root"), ("others", "/var/tmp/mica-test.55/a")]
        {
            fs::create_dir_all(run.0.join(owner)).unwrap();
            std::os::unix::fs::symlink(root, run.0.join(owner).join("root")).unwrap();
        }
        let told = format!("{} of the data root /var/tmp/mica-test.5/a/root", run.0.join("ours").display());
        assert_eq!(runs(&run.0, Path::new(SCRATCH)), [told]);
    }

    #[test]
    fn what_stays_is_left_behind() {
        // In a path of its own, since the other tests' processes come and go.
        let scratch = Path::new("/var/tmp/mica-test.stays");
        let before = Snapshot::take(scratch);
        let stays = Sleeper::new(Command::new("/usr/bin/sleep").env("TMPDIR", scratch));
        let told = format!("left behind: process {} (sleep): /usr/bin/sleep 1000", stays.0.id());
        assert!(before.differences_after(Duration::ZERO).contains(&told));
    }

    #[test]
    fn a_mount_that_went_was_taken_from_the_host() {
        let mut before = Snapshot::take(Path::new(SCRATCH));
        before.hosts.push("mount /sys/fs/cgroup/gone (cgroup, id 1)".to_owned());
        let told = "taken from the host: mount /sys/fs/cgroup/gone (cgroup, id 1)".to_owned();
        assert!(before.differences_after(Duration::ZERO).contains(&told));
    }
}
