//! Further processes in a container.

use crate::bed::{each_runtime, either_runtime, eventually, every_runtime};

/// What the kernel says of a process that matters for what it may do.
const QUESTION: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' /proc/self/status; cat /proc/self/cgroup; \
                        grep -v Cputime /proc/self/limits; echo $PWD $PATH $FROM_IMAGE";

#[test]
fn an_execd_process_is_confined_as_the_first_one_is() {
    // Not of open files, which programs in Go, such as runc, raise for themselves while they become the command.
    let flags: [&[&str]; 4] = [
        &[],
        &["--cap-drop", "ALL", "--cap-add", "CHOWN", "--security-opt", "no-new-privileges"],
        &["-u", "web", "--ulimit", "core=100:200", "-w", "/tmp", "-e", "FROM_IMAGE=x"],
        &["--security-opt", "seccomp=unconfined", "--cap-add", "NET_ADMIN"],
    ];
    each_runtime(|bed| {
        for flags in flags {
            let script = format!("{QUESTION}; sleep 100");
            let run = [&["run", "-d", "--name", "c"], flags, &["busybox", "sh", "-c", &script]].concat();
            bed.ok(&run);
            let mut first = String::new();
            eventually("the first process has answered", || {
                first = bed.ok(&["logs", "c"]);
                first.contains("PATH=") || first.lines().last().is_some_and(|line| line.starts_with('/'))
            });
            assert_eq!(bed.ok(&["exec", "c", "sh", "-c", QUESTION]), first, "{flags:?}");
            bed.ok(&["rm", "-f", "c"]);
        }
    });
}

#[test]
fn an_exec_has_its_own_status_variables_user_and_directory() {
    every_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "-e", "A=1", "busybox", "sleep", "100"]);
        bed.fails(127, &["exec", "c", "nosuch"]);
        bed.fails(126, &["exec", "c", "/etc"]);
        assert_eq!(bed.run(&["exec", "c", "sh", "-c", "exit 42"]).status, Some(42));
        assert_eq!(bed.run(&["exec", "c", "sh", "-c", "kill -9 $$"]).status, Some(137));
        let script = "echo $A $B $PWD $(id -u) $HOME";
        assert_eq!(
            bed.ok(&["exec", "-e", "B=2", "-w", "/tmp", "c", "sh", "-c", script]),
            "1 2 /tmp 0 /root\n"
        );
        assert_eq!(
            bed.ok(&["exec", "-u", "web:tape", "c", "sh", "-c", "id -u; id -g; echo $HOME"]),
            "33\n26\n/srv\n"
        );
        assert_eq!(
            bed.ok(&["exec", "-u", "web", "c", "grep", "CapEff", "/proc/self/status"]).trim(),
            "CapEff:\t0000000000000000"
        );
        let answer = bed.with_input(&["exec", "-i", "c", "cat"], b"through\n");
        assert_eq!((answer.status, answer.out.as_str()), (Some(0), "through\n"), "{answer:?}");
        let answer = bed.run(&["exec", "c", "sh", "-c", "echo out; echo err >&2"]);
        assert_eq!((answer.out.as_str(), answer.err.as_str()), ("out\n", "err\n"));
        bed.ok(&["exec", "-d", "c", "touch", "/made"]);
        eventually("the detached one has run", || {
            bed.run(&["exec", "c", "test", "-e", "/made"]).status == Some(0)
        });
    });
}

#[test]
fn an_exec_that_failed_does_not_keep_the_container_from_ending() {
    each_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        for _ in 0..3 {
            bed.fails(127, &["exec", "c", "nosuch"]);
        }
        bed.ok(&["exec", "-d", "c", "sleep", "50"]);
        assert_eq!(bed.ok(&["exec", "c", "ps"]).matches(" Z ").count(), 0);
        bed.ok(&["kill", "c"]);
        assert_eq!(bed.ok(&["wait", "c"]), "137\n");
    });
}

#[test]
fn an_exec_that_the_container_refuses_is_status_1_and_one_that_cannot_be_executed_126_or_127() {
    either_runtime(|bed| {
        assert!(bed.fails(1, &["exec", "c", "true"]).contains("no such container: c"));
        bed.ok(&["create", "--name", "c", "busybox", "sleep", "100"]);
        assert!(bed.fails(1, &["exec", "c", "true"]).contains("container c is not running"));
        bed.ok(&["start", "c"]);
        assert!(bed.fails(1, &["exec", "-it", "c", "true"]).contains("not a TTY"));
        assert!(
            bed.fails(126, &["exec", "-u", "nobody", "c", "true"]).contains("unable to find user nobody")
        );
        bed.fails(126, &["exec", "c", "/etc"]);
        bed.fails(127, &["exec", "c", "nosuch"]);
        assert!(bed.fails(127, &["exec", "c", ""]).contains("executable file not found"));
        bed.fails(1, &["exec", "-d", "c", "nosuch"]);
        bed.fails(125, &["exec", "--colour", "c", "true"]);
        bed.ok(&["pause", "c"]);
        for flags in [&[][..], &["-d"]] {
            let text = bed.fails(1, &[&["exec"], flags, &["c", "true"]].concat());
            assert!(text.contains("container c is paused, unpause the container before exec"), "{text}");
        }
    });
}

#[test]
fn an_exec_ends_with_the_container() {
    either_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        let exec = bed.spawn(&mut bed.command(&["exec", "c", "sh", "-c", "touch /here; sleep 100"]));
        eventually("it runs", || bed.run(&["exec", "c", "test", "-e", "/here"]).status == Some(0));
        bed.ok(&["kill", "c"]);
        assert_eq!(exec.wait_with_output().unwrap().status.code(), Some(137));
        assert!(bed.fails(1, &["exec", "c", "true"]).contains("container c is not running"));
    });
}

#[test]
fn what_an_exec_leaves_in_the_background_does_not_hold_its_client() {
    either_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        assert_eq!(bed.ok(&["exec", "c", "sh", "-c", "sleep 90 & echo done"]), "done\n");
    });
}

#[test]
fn top_shows_the_processes_with_their_numbers_on_the_host() {
    each_runtime(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "4321"]);
        let text = bed.ok(&["top", "c"]);
        let pid = bed.field("c", "{{.State.Pid}}");
        assert!(text.lines().any(|line| line.starts_with(&pid) && line.ends_with("sleep 4321")), "{text}");
    });
}
