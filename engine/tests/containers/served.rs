//! Containers whose file system a process serves.

use std::fs;
use std::path::PathBuf;

use crate::bed::{Bed, eventually, kill, on};
use crate::sys::map_and_write;

fn on_aufs(test: impl Fn(&Bed)) {
    on("aufs-compat", &[], test);
}

/// The processes that serve the mounts of a container: children of its supervisor that are not its first process.
fn servers(bed: &Bed, name: &str) -> Vec<i32> {
    let supervisor = bed.supervisor(name);
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let first = bed.field(name, "{{.State.Pid}}");
    let others = children.split_whitespace().filter(|pid| *pid != first);
    others.map(|pid| pid.parse().unwrap()).collect()
}

fn server(bed: &Bed, name: &str) -> i32 {
    let servers = servers(bed, name);
    assert_eq!(servers.len(), 1, "{servers:?}");
    servers[0]
}

#[test]
fn the_process_behind_a_file_system_is_outside_of_its_container_and_is_not_paused_with_it() {
    on_aufs(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]);
        let (first, server) = (bed.field("c", "{{.State.Pid}}"), server(bed, "c"));
        let of = |pid: &str, what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap();
        assert_ne!(of(&first, "cgroup"), of(&server.to_string(), "cgroup"));
        let namespace = |pid: &str| fs::read_link(PathBuf::from(format!("/proc/{pid}/ns/pid"))).unwrap();
        assert_eq!(namespace(&server.to_string()), namespace("self"));
        assert_ne!(namespace(&server.to_string()), namespace(&first));
        bed.ok(&["pause", "c"]);
        let passwd = bed.path("passwd");
        bed.ok(&["cp", "c:/etc/passwd", passwd.to_str().unwrap()]);
        assert!(fs::read_to_string(passwd).unwrap().starts_with("root:"));
        bed.ok(&["unpause", "c"]);
    });
}

#[test]
fn a_container_whose_file_system_is_killed_is_told_of_and_can_be_started_again() {
    on_aufs(|bed| {
        let script = "echo kept > /kept; while sleep 0.1; do :; done";
        bed.ok(&["create", "--name", "c", "busybox", "sh", "-c", script]);
        bed.ok(&["create", "--name", "other", "busybox", "sleep", "1000"]);
        let attached = bed.spawn(&mut bed.command(&["start", "-a", "c"]));
        bed.ok(&["start", "other"]);
        eventually("the container runs", || bed.field("c", "{{.State.Running}}") == "true");
        eventually("it has written", || bed.run(&["exec", "c", "cat", "/kept"]).out == "kept\n");
        let killed = server(bed, "c");
        kill(killed);
        eventually("the supervisor takes note", || !bed.field("c", "{{.State.Error}}").is_empty());
        let told = bed.field("c", "{{.State.Error}}");
        let expected = format!("process {killed}, which served it, was killed by signal 9");
        assert!(told.contains("lost its file system") && told.contains(&expected), "{told}");
        assert_eq!(bed.ok(&["exec", "other", "cat", "/etc/passwd"]).lines().count(), 2);
        // Whether it noticed by itself or not.
        bed.run(&["kill", "c"]);
        let ended = attached.wait_with_output().unwrap();
        let warned = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(warned.contains("lost its file system"), "{warned}");
        assert_eq!(bed.field("c", "{{.State.Error}}"), told, "also after the end");
        bed.ok(&["start", "c"]);
        assert_eq!(bed.ok(&["exec", "c", "cat", "/kept"]), "kept\n");
        assert_eq!(bed.field("c", "{{.State.Error}}"), "");
    });
}

#[test]
fn what_serves_a_container_ends_with_it_and_with_its_supervisor() {
    on_aufs(|bed| {
        for end in ["stop", "supervisor"] {
            bed.ok(&["run", "-d", "--name", end, "busybox", "sleep", "1000"]);
            let server = crate::bed::Watched::new(server(bed, end));
            if end == "stop" {
                bed.ok(&["stop", "-t", "0", end]);
            } else {
                kill(bed.supervisor(end));
            }
            server.ends();
        }
    });
}

#[test]
fn a_commit_holds_what_was_written_through_a_mapping_of_memory() {
    // Where the kernel has files by itself, it has their mappings as well.
    on("aufs-compat", &["--storage-opt", "aufs-compat.passthrough=false"], |bed| {
        let script = "echo lower > /mapped; sleep 1000";
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sh", "-c", script]);
        eventually("the file is there", || bed.run(&["exec", "c", "cat", "/mapped"]).out == "lower\n");
        let path = format!("/proc/{}/root/mapped", bed.field("c", "{{.State.Pid}}"));
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        map_and_write(&file, b"upper", || drop(bed.ok(&["commit", "c", "image"])));
        drop(file);
        assert_eq!(bed.ok(&["run", "--rm", "image", "cat", "/mapped"]), "upper\n");
    });
}

#[test]
fn inspect_shows_the_branches_as_aufs_did() {
    on_aufs(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        let branch = |number: u32| bed.field("c", &format!("{{{{.GraphDriver.Data.br{number}}}}}"));
        assert!(branch(0).ends_with("=rw") && branch(1).ends_with("=ro+wh"), "{} {}", branch(0), branch(1));
        let dir = branch(0);
        assert!(fs::metadata(dir.strip_suffix("=rw").unwrap()).unwrap().is_dir());
    });
}
