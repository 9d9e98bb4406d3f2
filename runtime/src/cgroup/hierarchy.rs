//! Which hierarchies of control groups this host has mounted, and where.

use std::io;
use std::path::{Path, PathBuf};

/// The kernel's v1 controllers; other words among a hierarchy's options are not controllers.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) mountpoint: PathBuf,
    /// Of v1 only; empty for a named hierarchy.
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// The directory's name below `/sys/fs/cgroup`.
    pub(crate) fn name(&self) -> &str {
        self.mountpoint.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// Those below `/sys/fs/cgroup`, each once.
pub(crate) fn mounted() -> io::Result<Vec<Hierarchy>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(parse_line) {
        let same = |other: &Hierarchy| other.mountpoint == hierarchy.mountpoint;
        if !found.iter().any(same) {
            found.push(hierarchy);
        }
    }
    found
}

/// proc_pid_mountinfo(5): `id parent major:minor root mountpoint options [tags] - type source super-options`.
fn parse_line(line: &str) -> Option<Hierarchy> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mountpoint = Path::new(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    let version = match fields.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    if !mountpoint.starts_with("/sys/fs/cgroup") {
        return None;
    }
    let options = fields.nth(1).unwrap_or_default().split(',');
    let controllers = options.filter(|word| version == Version::V1 && CONTROLLERS.contains(word));
    Some(Hierarchy {
        version,
        mountpoint: mountpoint.to_owned(),
        controllers: controllers.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_named_joint_and_unified_hierarchies() {
        let text = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
90 80 0:29 /x /var/lib/thing/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
";
        let found = parse(text);
        let names: Vec<&str> = found.iter().map(Hierarchy::name).collect();
        assert_eq!(names, ["unified", "systemd", "cpu,cpuacct"]);
        assert_eq!(found[2].controllers, ["cpu", "cpuacct"]);
        assert!(found[1].controllers.is_empty());
    }

    #[test]
    fn a_v2_host_has_one_hierarchy() {
        let found = parse("24 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, Version::V2);
    }
}
