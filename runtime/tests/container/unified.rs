//! Containers on a host that has cgroup v2 alone. The host of these tests may have others: then the
//! supervisor gets a mount namespace where the unified hierarchy is at `/sys/fs/cgroup` and no other is,
//! which is all that differs for it (but for the controllers that are bound to the others).

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::bed::Bed;
use crate::cases;
use crate::supervisor::Supervisor;

cases![
    a_container_is_in_its_group_and_sees_it_as_the_root,
    a_process_joins_a_container_that_divided_its_group,
    devices_are_restricted_without_a_controller_for_them,
    a_paused_container_is_frozen_and_can_be_killed,
    a_limit_without_its_controller_is_an_error_that_names_it,
];

/// A bed on such a host, or `None` where there is no unified hierarchy at all.
fn bed(test: &str, command: &[&str]) -> Option<(Bed, PathBuf)> {
    let Some(unified) = unified() else {
        eprintln!("skip: {test}: this host has no cgroup2 hierarchy");
        return None;
    };
    let mut bed = Bed::with_command(command);
    bed.supervisor = Supervisor::spawn_unified();
    let namespaces = bed.linux().namespaces_mut().as_mut().unwrap();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Cgroup);
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(LinuxNamespaceType::Cgroup);
    namespaces.push(namespace);
    let group = unified.join(&bed.id);
    Some((bed, group))
}

/// Where the unified hierarchy is for this process.
fn unified() -> Option<PathBuf> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    places.into_iter().find(|place| place.join("cgroup.subtree_control").exists()).map(Path::to_owned)
}

fn a_container_is_in_its_group_and_sees_it_as_the_root() {
    let script = "grep ^0: /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/cgroup.procs | head -1;
        mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused; grep -c cgroup /proc/self/mountinfo";
    let Some((mut bed, group)) = bed("a_container_is_in_its_group", &["sh", "-c", script]) else { return };
    assert_eq!(bed.run().output, "0::/\n/sys/fs/cgroup/cgroup.procs\n1\nrefused\n1\n");
    assert!(!group.exists());
}

/// What the runtime hands on from the root for the limit of a test, which is the host's own setting: one test at a
/// time has it handed on, whatever process it is in, and puts it back as it was.
struct Delegation {
    control: PathBuf,
    was_on: bool,
    _lock: File,
}

impl Delegation {
    fn of_hugetlb(root: &Path) -> Self {
        let lock = File::open(root).unwrap();
        lock.lock().unwrap();
        let control = root.join("cgroup.subtree_control");
        let was_on = fs::read_to_string(&control).unwrap().contains("hugetlb");
        Self { control, was_on, _lock: lock }
    }
}

impl Drop for Delegation {
    fn drop(&mut self) {
        if self.was_on {
            return;
        }
        let undone = fs::write(&self.control, "-hugetlb");
        // Somebody who is no test hands it further on by now, and keeps it.
        let kept = matches!(&undone, Err(error) if error.kind() == ErrorKind::ResourceBusy);
        assert!(undone.is_ok() || kept || std::thread::panicking(), "{undone:?}");
    }
}

fn a_process_joins_a_container_that_divided_its_group() {
    let test = "a_process_joins_a_container_that_divided_its_group";
    let root = unified();
    // Dropped after the container, which has it in use.
    let _delegation = root.as_deref().map(Delegation::of_hugetlb);
    let Some((mut bed, group)) = bed(test, &["sleep", "1000"]) else { return };
    let controllers = fs::read_to_string(group.parent().unwrap().join("cgroup.controllers")).unwrap();
    if !controllers.contains("hugetlb") {
        eprintln!("skip: {test}: the unified hierarchy has no hugetlb controller to divide a group by");
        return;
    }
    let limits = serde_json::json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}]});
    bed.linux().set_resources(Some(serde_json::from_value(limits).unwrap()));
    let pid = bed.up();
    assert_eq!(fs::read_to_string(group.join("hugetlb.2MB.max")).unwrap().trim(), (1 << 21).to_string());
    // As systemd does inside: a leaf for itself, and controllers for leaves; then no process fits in between.
    let leaf = group.join("leaf");
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("cgroup.procs"), pid.to_string()).unwrap();
    fs::write(group.join("cgroup.subtree_control"), "+hugetlb").unwrap();
    let process = bed.joining(&["sleep", "1000"]);
    let joined = bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    assert_eq!(fs::read_to_string(leaf.join("cgroup.procs")).unwrap(), format!("{pid}\n{}\n", joined.pid));
    let mut both = bed.supervisor.processes();
    both.sort_unstable();
    assert_eq!(both, [pid, joined.pid]);
    bed.supervisor.delete().unwrap();
    assert!(!group.exists());
}

fn devices_are_restricted_without_a_controller_for_them() {
    let script = "mknod /tmp/kmsg c 1 11 && (: < /tmp/kmsg) && echo bad; head -c 1 /dev/zero | wc -c";
    let Some((mut bed, _)) = bed("devices_are_restricted", &["sh", "-c", script]) else { return };
    let output = bed.run().output;
    assert!(
        output.ends_with("1\n") && output.contains("not permitted") && !output.contains("bad"),
        "{output}"
    );
}

fn a_paused_container_is_frozen_and_can_be_killed() {
    let Some((mut bed, group)) = bed("a_paused_container", &["sleep", "1000"]) else { return };
    let pid = bed.up();
    let frozen = || fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1");
    bed.supervisor.pause().unwrap();
    assert!(frozen());
    bed.supervisor.resume().unwrap();
    assert!(!frozen());
    bed.supervisor.pause().unwrap();
    bed.supervisor.signal_all(libc::SIGKILL).unwrap();
    assert_eq!(bed.supervisor.wait(pid), 137);
}

fn a_limit_without_its_controller_is_an_error_that_names_it() {
    let Some((mut bed, group)) = bed("a_limit_without_its_controller", &["true"]) else { return };
    let controllers = fs::read_to_string(group.parent().unwrap().join("cgroup.controllers")).unwrap();
    let resources = serde_json::json!({"memory": {"limit": 64 << 20}});
    bed.linux().set_resources(Some(serde_json::from_value(resources).unwrap()));
    let created = bed.create();
    if controllers.contains("memory") {
        assert_eq!(fs::read_to_string(group.join("memory.max")).unwrap().trim(), (64 << 20).to_string());
        created.unwrap();
        return;
    }
    assert!(created.unwrap_err().text.contains("controller memory"));
    assert!(!group.exists());
}
