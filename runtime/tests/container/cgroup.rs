//! Control groups: where a container's processes are, what limits them, and that nothing of it stays.

use std::fs;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::bed::{Bed, Watched, until};
use crate::cases;

cases![
    every_process_is_in_every_hierarchy_and_no_group_is_left,
    groups_nested_by_the_container_are_removed_too,
    a_parent_made_for_the_container_goes_with_it,
    limits_are_what_the_bundle_says,
    limits_can_be_changed_while_it_runs,
    a_fork_bomb_stops_at_the_limit,
    a_limit_that_the_kernel_refuses_leaves_nothing,
    a_group_that_exists_is_refused,
    what_a_crashed_supervisor_leaves_is_removed,
    a_path_that_leads_elsewhere_is_refused,
    a_paused_container_stands_still_until_it_is_resumed,
    a_paused_container_can_be_killed,
    every_process_gets_the_signal,
    delete_takes_a_running_container_down_and_may_be_repeated,
];

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).unwrap()
}

/// A file of the container's group, in the hierarchy that has it.
fn read(bed: &Bed, v1: &str, v2: &str) -> String {
    let dirs = bed.cgroups();
    let find = |file: &str| dirs.iter().map(|dir| dir.join(file)).find(|path| path.exists());
    fs::read_to_string(find(v1).or_else(|| find(v2)).unwrap()).unwrap().trim().to_owned()
}

fn every_process_is_in_every_hierarchy_and_no_group_is_left() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in groups.lines() {
        assert!(line.ends_with(&format!(":/{}", bed.id)), "{line}");
    }
    assert_eq!(bed.cgroups().len(), groups.lines().count());
    bed.supervisor.delete().unwrap();
    assert!(bed.cgroups().is_empty());
}

fn groups_nested_by_the_container_are_removed_too() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    for dir in bed.cgroups() {
        fs::create_dir_all(dir.join("nested/deep")).unwrap();
        // The root of a hierarchy with controllers enabled takes no processes; those groups stay empty.
        let _ = fs::write(dir.join("nested/deep/cgroup.procs"), pid.to_string());
    }
    assert_eq!(bed.supervisor.processes(), [pid]);
    bed.supervisor.delete().unwrap();
    assert!(bed.cgroups().is_empty());
}

fn a_parent_made_for_the_container_goes_with_it() {
    let mut bed = Bed::with_command(&["true"]);
    let path = format!("/{}/inner/most", bed.id);
    bed.linux().set_cgroups_path(Some(path.into()));
    assert_eq!(bed.run().code, 0);
    assert!(bed.cgroups().is_empty(), "{:?}", bed.cgroups());
}

fn limits_are_what_the_bundle_says() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.linux().set_resources(Some(resources(serde_json::json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 20},
        "cpu": {"quota": 50000, "period": 100_000, "shares": 512, "cpus": "0"},
    }))));
    bed.up();
    assert_eq!(read(&bed, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read(&bed, "pids.max", "pids.max"), "20");
    assert_eq!(read(&bed, "cpuset.cpus", "cpuset.cpus"), "0");
    let quota = read(&bed, "cpu.cfs_quota_us", "cpu.max");
    assert!(quota.starts_with("50000"), "{quota}");
    let shares = read(&bed, "cpu.shares", "cpu.weight");
    assert!(["512", "20"].contains(&shares.as_str()), "{shares}");
    assert_eq!(bed.exec("nproc").output, "1\n");
}

fn limits_can_be_changed_while_it_runs() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    bed.up();
    bed.supervisor.update(&resources(serde_json::json!({"pids": {"limit": 7}}))).unwrap();
    assert_eq!(read(&bed, "pids.max", "pids.max"), "7");
}

fn a_fork_bomb_stops_at_the_limit() {
    let mut bed = Bed::new("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; true");
    bed.linux().set_resources(Some(resources(serde_json::json!({"pids": {"limit": 5}}))));
    let ran = bed.run();
    assert!(ran.output.contains("can't fork"), "{}", ran.output);
}

fn a_limit_that_the_kernel_refuses_leaves_nothing() {
    let mut bed = Bed::with_command(&["true"]);
    bed.linux().set_resources(Some(resources(serde_json::json!({"cpu": {"cpus": "4000"}}))));
    let failure = bed.create().unwrap_err();
    assert!(failure.text.starts_with("setting cpuset.cpus to 4000"), "{}", failure.text);
    assert!(bed.cgroups().is_empty());
}

fn a_group_that_exists_is_refused() {
    let mut first = Bed::with_command(&["sleep", "1000"]);
    first.up();
    let mut second = Bed::with_command(&["true"]);
    second.linux().set_cgroups_path(Some(format!("/{}", first.id).into()));
    let failure = second.create().unwrap_err();
    assert!(failure.text.contains("in use"), "{}", failure.text);
    assert_eq!(first.exec("true").code, 0);
    first.supervisor.delete().unwrap();
}

fn what_a_crashed_supervisor_leaves_is_removed() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    let process = bed.joining(&["sleep", "1000"]);
    let joined = bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    let both = [pid, joined.pid].map(Watched::new);
    bed.supervisor.crash();
    assert!(!bed.cgroups().is_empty());
    let path = format!("/{}", bed.id);
    mica_runtime::remove_cgroup(Path::new(&path)).unwrap();
    assert!(bed.cgroups().is_empty());
    both.iter().for_each(Watched::ends);
    mica_runtime::remove_cgroup(Path::new(&path)).unwrap();
}

fn a_path_that_leads_elsewhere_is_refused() {
    for path in ["/", "relative", "/../x", "/a/../.."] {
        let mut bed = Bed::with_command(&["true"]);
        bed.linux().set_cgroups_path(Some(path.into()));
        assert!(bed.create().unwrap_err().text.starts_with("control group path"), "{path}");
        assert!(mica_runtime::remove_cgroup(Path::new(path)).is_err());
    }
}

fn a_paused_container_stands_still_until_it_is_resumed() {
    let mut bed = Bed::new("i=0; while true; do i=$((i+1)); echo $i; done > /tmp/count");
    bed.up();
    let count = || fs::metadata(bed.root().join("tmp/count")).map_or(0, |file| file.len());
    until("the container counts", || count() > 0);
    let root = bed.root();
    let count = || fs::metadata(root.join("tmp/count")).unwrap().len();
    bed.supervisor.pause().unwrap();
    let before = count();
    let state = read(&bed, "freezer.state", "cgroup.events");
    assert!(state == "FROZEN" || state.contains("frozen 1"), "{state}");
    assert_eq!(count(), before);
    bed.supervisor.resume().unwrap();
    bed.supervisor.resume().unwrap();
    until("the container goes on", || count() > before);
}

fn a_paused_container_can_be_killed() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    bed.supervisor.pause().unwrap();
    bed.supervisor.signal_all(libc::SIGKILL).unwrap();
    assert_eq!(bed.supervisor.wait(pid), 137);
}

fn every_process_gets_the_signal() {
    let mut bed = Bed::with_command(&["sleep", "1000"]);
    let pid = bed.up();
    let process = bed.joining(&["sleep", "1000"]);
    let joined = bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    // The first process of a pid namespace ignores what it does not handle, from its own namespace only.
    bed.supervisor.signal_all(libc::SIGUSR1).unwrap();
    assert_eq!(bed.supervisor.wait(joined.pid), 128 + 10);
    bed.supervisor.signal_all(libc::SIGKILL).unwrap();
    assert_eq!(bed.supervisor.wait(pid), 137);
}

fn delete_takes_a_running_container_down_and_may_be_repeated() {
    let mut bed = Bed::new("sleep 1000 & sleep 1000");
    bed.up();
    let process = bed.joining(&["sleep", "1000"]);
    bed.supervisor.exec(&process, &bed.path("exec")).unwrap();
    bed.supervisor.delete().unwrap();
    bed.supervisor.delete().unwrap();
    assert!(bed.cgroups().is_empty());
}
