//! Whatever is killed, and whenever: the next command finds everything in order.

use crate::bed::{Bed, Watched, each, eventually, kill, once};

#[test]
fn a_creation_that_is_killed_leaves_all_or_nothing() {
    each(|bed| {
        for point in
            ["create.layer", "create.named", "create.placed", "transaction.working", "settle.condemned"]
        {
            let arguments = ["create", "--name", "c", "busybox", "true"];
            assert_eq!(bed.with_failpoint(point, &arguments).status, None, "{point}");
            bed.clear();
            bed.assert_consistent();
            let answer = bed.with_failpoint(&format!("{point}=error"), &arguments);
            assert_ne!(answer.status, Some(0), "{point}");
            bed.clear();
            bed.assert_consistent();
            // The name is free.
            bed.ok(&arguments);
            bed.ok(&["rm", "c"]);
        }
    });
}

#[test]
fn a_removal_that_is_killed_leaves_all_or_nothing() {
    each(|bed| {
        for point in ["remove.announced", "remove.renamed", "settle.condemned", "settle.removed"] {
            bed.ok(&["create", "--name", "c", "busybox", "true"]);
            assert_eq!(bed.with_failpoint(point, &["rm", "c"]).status, None, "{point}");
            bed.clear();
            bed.assert_consistent();
            bed.ok(&["create", "--name", "c", "busybox", "true"]);
            bed.ok(&["rm", "c"]);
        }
    });
}

/// Every moment of a `run` from the first thing that it makes to the first process of the container.
const BEFORE_IT_RUNS: [&str; 11] = [
    "create.layer",
    "create.named",
    "create.placed",
    "transaction.working",
    "settle.condemned",
    "settle.removed",
    "start.held",
    "supervisor.independent",
    "stage.announced",
    "stage.mounted",
    "stage.created",
];

#[test]
fn a_run_that_removes_itself_is_gone_when_it_is_killed_or_fails_before_its_container_runs() {
    each(|bed| {
        for point in BEFORE_IT_RUNS {
            for point in [point.to_owned(), format!("{point}=error")] {
                let arguments = ["run", "--rm", "--name", "c", "-v", "/anonymous", "busybox", "true"];
                let answer = bed.with_failpoint(&point, &arguments);
                assert!(matches!(answer.status, None | Some(125)), "{point}: {answer:?}");
                assert_eq!(bed.ok(&["ps", "-aq"]), "", "{point}");
                assert_eq!(std::fs::read_dir(bed.root().join("containers")).unwrap().count(), 0, "{point}");
                let volumes = std::fs::read_dir(bed.root().join("volumes"));
                assert_eq!(volumes.into_iter().flatten().count(), 0, "{point}");
                bed.assert_consistent();
                // The name is free.
                assert_eq!(bed.run(&arguments).status, Some(0), "{point}");
            }
        }
    });
}

#[test]
fn an_image_is_not_kept_by_a_run_that_was_killed() {
    once(|bed| {
        for removal in [&["rmi", "busybox:one"][..], &["prune", "-a"]] {
            bed.ok(&["import", bed.path("busybox.tar").to_str().unwrap(), "busybox:one"]);
            bed.with_failpoint("start.held", &["run", "--rm", "busybox:one", "true"]);
            bed.ok(removal);
            assert!(!bed.ok(&["images"]).contains("one"));
        }
    });
}

#[test]
fn a_run_that_is_killed_before_its_container_runs_leaves_one_that_can_be_started() {
    once(|bed| {
        for point in ["create.placed", "transaction.working", "start.held", "supervisor.independent"] {
            bed.with_failpoint(point, &["run", "--name", "c", "busybox", "echo", "again"]);
            assert_put_right(bed, point);
        }
    });
}

#[test]
fn a_container_that_was_to_remove_itself_is_gone_though_its_supervisor_was_killed_at_the_end() {
    once(|bed| {
        for point in ["stage.struck", "remove.announced", "remove.renamed"] {
            // The lock of a process that was killed is free a moment after its client knows.
            let is_gone = || bed.ok(&["ps", "-aq"]).is_empty();
            bed.with_failpoint(point, &["run", "--rm", "--name", "c", "busybox", "true"]);
            eventually(point, is_gone);
            bed.assert_consistent();
            // To be made and never started is no reason to go.
            bed.ok(&["create", "--rm", "--name", "c", "busybox", "true"]);
            assert_eq!(bed.ok(&["ps", "-aq"]).lines().count(), 1);
            bed.with_failpoint(point, &["start", "-a", "c"]);
            eventually(point, is_gone);
            bed.assert_consistent();
        }
    });
}

fn assert_no_groups(id: &str, point: &str) {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let group = hierarchy.unwrap().path().join(format!("mica-{id}"));
        assert!(!group.exists(), "{point}: {}", group.display());
    }
}

/// Nothing of the container is left but its record, and it can be started again.
fn assert_put_right(bed: &Bed, point: &str) {
    // The lock of a process that was killed is free a moment after its client knows.
    eventually(point, || {
        let status = bed.ok(&["ps", "-a", "--format", "{{.Status}}"]);
        status.starts_with("Exited (137)") || status.starts_with("Created")
    });
    let id = bed.field("c", "{{.Id}}");
    assert_no_groups(&id, point);
    bed.assert_consistent();
    assert_eq!(bed.ok(&["start", "-a", "c"]), "again\n");
    bed.ok(&["rm", "c"]);
}

#[test]
fn a_supervisor_that_is_killed_on_the_way_up_leaves_a_container_that_can_be_started() {
    let points =
        ["supervisor.independent", "stage.announced", "stage.mounted", "stage.created", "stage.running"];
    each(|bed| {
        for point in points {
            bed.ok(&["create", "--name", "c", "busybox", "echo", "again"]);
            let answer = bed.with_failpoint(point, &["start", "-a", "c"]);
            assert_eq!(answer.status, Some(1), "{point}: {answer:?}");
            assert!(answer.err.contains("supervisor"), "{answer:?}");
            assert_put_right(bed, point);
        }
    });
}

#[test]
fn a_supervisor_that_fails_on_the_way_up_undoes_what_it_did() {
    each(|bed| {
        for point in ["supervisor.independent", "stage.announced", "stage.mounted", "stage.created"] {
            bed.ok(&["create", "--name", "c", "busybox", "echo", "again"]);
            let answer = bed.with_failpoint(&format!("{point}=error"), &["start", "-a", "c"]);
            assert_eq!(answer.status, Some(1), "{point}: {answer:?}");
            assert!(answer.err.contains(&format!("failpoint {point}")), "{answer:?}");
            assert_put_right(bed, point);
        }
    });
}

#[test]
fn a_supervisor_that_is_killed_at_the_end_leaves_a_container_that_can_be_started() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "echo", "again"]);
        bed.with_failpoint("stage.struck", &["start", "-a", "c"]);
        let status = bed.ok(&["ps", "-a", "--format", "{{.Status}}"]);
        assert!(status.starts_with("Exited (0)"), "{status}");
        assert_eq!(bed.ok(&["start", "-a", "c"]), "again\n");
    });
}

#[test]
fn a_container_dies_with_its_supervisor_and_the_next_command_says_so() {
    each(killed_supervisors);
}

pub(crate) fn killed_supervisors(bed: &Bed) {
    bed.ok(&["run", "-d", "--name", "c", "busybox", "sh", "-c", "echo again; exec sleep 100"]);
    let process = Watched::new(bed.field("c", "{{.State.Pid}}").parse().unwrap());
    kill(bed.supervisor("c"));
    process.ends();
    assert!(bed.ok(&["ps", "-a"]).contains("Exited (137)"));
    assert_eq!(bed.field("c", "{{.State.Error}}"), "its supervisor was killed");
    assert_eq!(bed.ok(&["wait", "c"]), "137\n");
    bed.assert_consistent();
    bed.ok(&["start", "c"]);
    kill(bed.supervisor("c"));
    bed.ok(&["start", "c"]);
    kill(bed.supervisor("c"));
    bed.ok(&["rm", "-f", "c"]);
    bed.assert_consistent();
}

#[test]
fn another_runtime_does_not_go_on_after_its_supervisor() {
    once(|bed| {
        let runtime =
            bed.file("runtime", b"#!/bin/sh\necho $PPID $$ > pids.new; mv pids.new pids; exec sleep 1000\n");
        std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let start =
            bed.spawn(&mut bed.command(&["--runtime", &runtime, "run", "--name", "c", "busybox", "true"]));
        let mut pids = Vec::new();
        eventually("the runtime is called", || {
            let container =
                std::fs::read_dir(bed.root().join("containers")).into_iter().flatten().flatten().next();
            let text = container.and_then(|dir| std::fs::read_to_string(dir.path().join("bundle/pids")).ok());
            pids = text
                .iter()
                .flat_map(|text| text.split_whitespace())
                .map(|pid| pid.parse().unwrap())
                .collect();
            pids.len() == 2
        });
        let process = Watched::new(pids[1]);
        kill(pids[0]);
        start.wait_with_output().unwrap();
        process.ends();
    });
}

#[test]
fn what_another_runtime_left_that_was_killed_is_removed() {
    if std::process::Command::new("runc").arg("--version").output().is_err() {
        eprintln!("skip: engine/a-killed-runc: runc is not installed");
        return;
    }
    once(|bed| {
        let script = "#!/bin/sh\ncase \"$*\" in\n*' create '*) runc \"$@\"; kill -9 $$ ;;\n*) exec runc \"$@\" ;;\nesac\n";
        let runtime = bed.file("runtime", script.as_bytes());
        std::fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        bed.fails(125, &["--runtime", &runtime, "run", "--name", "c", "busybox", "true"]);
        assert_no_groups(&bed.field("c", "{{.Id}}"), "create");
    });
}

#[test]
fn putting_right_can_be_killed_too() {
    once(|bed| {
        for point in ["recover.cleaned", "recover.recorded"] {
            bed.ok(&["run", "-d", "--rm", "--name", "c", "busybox", "sleep", "100"]);
            kill(bed.supervisor("c"));
            assert_eq!(bed.with_failpoint(point, &["ps", "-a"]).status, None, "{point}");
            bed.ok(&["ps", "-a"]);
            bed.clear();
            bed.assert_consistent();
        }
    });
}

#[test]
fn those_who_wait_hear_of_a_supervisor_that_was_killed() {
    once(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        let waiting = bed.spawn(&mut bed.command(&["wait", "c"]));
        let attached = bed.spawn(&mut bed.command(&["attach", "--no-stdin", "c"]));
        let inside = bed.spawn(&mut bed.command(&["exec", "c", "sleep", "100"]));
        eventually("the exec runs", || bed.ok(&["top", "c"]).lines().count() == 3);
        kill(bed.supervisor("c"));
        assert_eq!(String::from_utf8_lossy(&waiting.wait_with_output().unwrap().stdout), "137\n");
        assert_eq!(attached.wait_with_output().unwrap().status.code(), Some(137));
        assert_eq!(inside.wait_with_output().unwrap().status.code(), Some(137));
    });
}

#[test]
fn a_commit_that_is_killed_lets_the_container_go_on() {
    each(killed_commits);
}

pub(crate) fn killed_commits(bed: &Bed) {
    bed.ok(&[
        "run",
        "-d",
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        "while true; do echo tick; sleep 0.01; done",
    ]);
    for point in ["commit.copied", "commit.filled"] {
        assert_eq!(bed.with_failpoint(point, &["commit", "c", "busybox:new"]).status, None, "{point}");
        let lines = || bed.ok(&["logs", "c"]).lines().count();
        let before = lines();
        eventually("it goes on", || lines() > before);
        bed.assert_consistent();
        assert!(!bed.ok(&["images"]).contains("new"));
    }
}
