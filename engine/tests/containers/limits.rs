//! What a container may do and how much of it.

use crate::bed::{Bed, each, each_runtime, once};

#[test]
fn a_container_is_apart_from_the_host() {
    each_runtime(|bed| {
        let text = bed.sh(
            &["--hostname", "inside"],
            "hostname; ls /sys/class/net; echo $$; cat /proc/1/comm; ls /proc/self/fd | wc -l",
        );
        assert_eq!(text.lines().collect::<Vec<_>>(), ["inside", "eth0", "lo", "1", "sh", "4"], "{text}");
        for path in ["/proc/kcore", "/proc/keys"] {
            assert_eq!(bed.sh(&[], &format!("head -c 1 {path} | wc -c")).trim(), "0");
        }
        assert_ne!(
            bed.run(&["run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/hostname"]).status,
            Some(0)
        );
        assert_ne!(
            bed.run(&["run", "--rm", "busybox", "mount", "-t", "tmpfs", "none", "/tmp"]).status,
            Some(0)
        );
        let host = bed.sh(&["--network", "host"], "readlink /proc/self/ns/net");
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(host.trim(), own.to_str().unwrap());
    });
}

#[test]
fn limits_reach_the_kernel() {
    each_runtime(|bed| {
        let group =
            |file: &str| format!("cat /sys/fs/cgroup/{file} /sys/fs/cgroup/*/{file} 2>/dev/null | head -n 1");
        let memory = bed.sh(&["-m", "64m"], &group("memory.limit_in_bytes"))
            + &bed.sh(&["-m", "64m"], &group("memory.max"));
        assert!(memory.contains("67108864"), "{memory}");
        assert_eq!(bed.sh(&["--pids-limit", "50"], &group("pids.max")).trim(), "50");
        let cpu = bed.sh(&["--cpus", "0.5"], &group("cpu.cfs_quota_us"))
            + &bed.sh(&["--cpus", "0.5"], &group("cpu.max"));
        assert!(cpu.contains("50000"), "{cpu}");
        assert_eq!(bed.sh(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"), "100\n200\n");
        let status = bed.sh(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status");
        assert_eq!(status.trim(), "NoNewPrivs:\t1");
        let status = bed.sh(&["--security-opt", "seccomp=unconfined"], "grep -w Seccomp /proc/self/status");
        assert_eq!(status.trim(), "Seccomp:\t0");
    });
}

#[test]
fn a_process_too_many_for_its_memory_is_told() {
    once(|bed| {
        let flags = ["run", "--name", "c", "-m", "8m", "--tmpfs", "/m:size=100m", "busybox"];
        let script = ["sh", "-c", "dd if=/dev/zero of=/m/x bs=1M count=60; exit $?"];
        let answer = bed.run(&[&flags[..], &script[..]].concat());
        assert_ne!(answer.status, Some(0), "{answer:?}");
        assert_eq!(bed.field("c", "{{.State.OOMKilled}}"), "true");
    });
}

#[test]
fn a_read_only_root_takes_no_writes_and_memory_does() {
    each(|bed| {
        let flags = ["run", "--rm", "--read-only", "--tmpfs", "/tmp", "busybox", "sh", "-c"];
        assert_ne!(bed.run(&[&flags[..], &["touch /x"]].concat()).status, Some(0));
        bed.ok(&[&flags[..], &["touch /tmp/x && test -w /etc/hosts"]].concat());
    });
}

#[test]
fn a_layer_keeps_to_its_size_where_the_driver_can() {
    each(limited_in_size);
}

pub(crate) fn limited_in_size(bed: &Bed) {
    let answer = bed.run(&[
        "create",
        "--name",
        "c",
        "--storage-opt",
        "size=8m",
        "busybox",
        "dd",
        "if=/dev/zero",
        "of=/x",
        "bs=1M",
        "count=32",
    ]);
    if answer.status == Some(0) {
        assert_ne!(bed.run(&["start", "-a", "c"]).status, Some(0));
        assert_eq!(bed.field("c", "{{json .HostConfig.StorageOpt}}"), "{\"size\":\"8388608\"}");
    } else {
        let reason = answer.err.split_once(" of a container here: ").expect(&answer.err).1.trim();
        assert_eq!(answer.status, Some(125));
        eprintln!("skip: engine/container-size/{}: {reason}", bed.driver);
    }
}
