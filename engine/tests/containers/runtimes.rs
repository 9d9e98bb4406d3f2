//! What runs a container: the built-in runtime, or one of the user's.

use crate::bed::{each_runtime, eventually, once};

#[test]
fn the_runtime_of_a_container_is_named_before_or_after_the_verb_and_the_nearer_name_counts() {
    once(|bed| {
        let runtime = |name: &str| bed.field(name, "{{.HostConfig.Runtime}}");
        bed.ok(&["create", "--name", "own", "busybox", "true"]);
        bed.ok(&["--runtime", "far", "create", "--name", "far", "busybox", "true"]);
        bed.ok(&["--runtime", "far", "create", "--runtime", "/near", "--name", "both", "busybox", "true"]);
        assert_eq!(["own", "far", "both"].map(runtime), ["mica", "far", "/near"]);
        // The container keeps it, whoever starts it.
        let text = bed.fails(1, &["--runtime", "far", "start", "both"]);
        assert!(text.contains("/near"), "{text}");
        let text = bed.fails(125, &["run", "--runtime", "/nosuch", "--rm", "busybox", "true"]);
        assert!(text.contains("/nosuch"), "{text}");
    });
}

#[test]
fn a_container_sees_its_place_among_the_control_groups_of_the_host_or_none() {
    each_runtime(|bed| {
        for (namespace, is_private) in [("private", true), ("host", false)] {
            let ask = "readlink /proc/self/ns/cgroup; cat /proc/self/cgroup; echo end; sleep 100";
            bed.ok(&["run", "-d", "--name", "c", "--cgroupns", namespace, "busybox", "sh", "-c", ask]);
            let id = bed.field("c", "{{.Id}}");
            assert_eq!(bed.field("c", "{{.HostConfig.CgroupnsMode}}"), namespace);
            let mut first = String::new();
            eventually("it has answered", || {
                first = bed.ok(&["logs", "c"]);
                first.ends_with("end\n")
            });
            let hosts = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
            assert_eq!(first.lines().next() != hosts.to_str(), is_private, "{first}");
            let joined = bed.ok(&["exec", "c", "cat", "/proc/self/cgroup"]);
            assert!(first.contains(&joined), "{first} {joined}");
            // What the container can be found by, in the groups that were made for it.
            assert_eq!(joined.contains(&format!("/mica-{id}")), !is_private, "{joined}");
            bed.ok(&["rm", "-f", "c"]);
        }
        let text = bed.fails(125, &["run", "--cgroupns", "none", "busybox", "true"]);
        assert!(text.contains("'none'; those that exist are: host, private"), "{text}");
    });
}

#[test]
fn the_default_cgroup_namespace_is_private_with_version_2_alone_and_else_the_hosts() {
    once(|bed| {
        let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        bed.ok(&["run", "--name", "c", "busybox", "readlink", "/proc/self/ns/cgroup"]);
        let hosts = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
        assert_eq!(bed.ok(&["logs", "c"]).trim() != hosts.to_str().unwrap(), is_v2);
        assert_eq!(bed.field("c", "{{.HostConfig.CgroupnsMode}}"), if is_v2 { "private" } else { "host" });
    });
}
