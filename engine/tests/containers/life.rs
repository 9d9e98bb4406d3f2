//! From creation to the end: statuses, signals, streams.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::bed::{Answer, each, each_runtime, either_runtime, eventually, kill, once};

#[test]
fn the_exit_status_is_the_containers_own() {
    each_runtime(|bed| {
        let status = |script: &str| bed.run(&["run", "--rm", "busybox", "sh", "-c", script]).status;
        assert_eq!(status("exit 3"), Some(3));
        assert_eq!(status("sh -c 'kill -9 $$'; exit $?"), Some(137));
        let text = bed.fails(127, &["run", "--rm", "busybox", "nosuch"]);
        assert!(text.contains("exec: \"nosuch\": executable file not found in $PATH"), "{text}");
        bed.fails(126, &["run", "--rm", "busybox", "/etc"]);
    });
}

#[test]
fn an_empty_command_is_not_found() {
    each_runtime(|bed| {
        let text = bed.fails(127, &["run", "--rm", "busybox", ""]);
        assert!(text.contains("executable file not found in $PATH"), "{text}");
    });
}

/// Docker's daemon refuses the start, whatever the reason; only `run` tells reasons apart.
#[test]
fn to_start_what_cannot_be_executed_is_status_1() {
    either_runtime(|bed| {
        for (name, command) in [("missing", "nosuch"), ("directory", "/etc"), ("empty", "")] {
            bed.ok(&["create", "--name", name, "busybox", command]);
            bed.fails(1, &["start", name]);
            bed.fails(1, &["start", "-a", name]);
            assert_eq!(bed.field(name, "{{.State.Status}}"), "created");
        }
    });
}

#[test]
fn inspect_tells_where_a_driver_keeps_an_image_and_a_container_that_was_never_started() {
    each(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        let data = |name: &str| bed.field(name, "{{json .GraphDriver.Data}}");
        let of_image: serde_json::Value = serde_json::from_str(&data("busybox")).unwrap();
        let of_container: serde_json::Value = serde_json::from_str(&data("c")).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().len();
        // Beside `MergedDir`, which every container has.
        assert!(keys(&of_image) > 0 && keys(&of_container) > 1, "{of_image} {of_container}");
        let dirs = [&of_image, &of_container].map(|value| value["UpperDir"].as_str());
        assert!(dirs.iter().flatten().all(|dir| std::path::Path::new(dir).is_dir()), "{dirs:?}");
        assert!(dirs[0] != dirs[1] || dirs[0].is_none(), "{dirs:?}");
    });
}

#[test]
fn what_cannot_be_run_is_status_125_and_leaves_nothing() {
    once(|bed| {
        assert!(bed.fails(125, &["run", "nosuch"]).contains("no such image: nosuch"));
        assert!(bed.fails(125, &["run", "busybox"]).contains("no command"));
        assert!(bed.fails(125, &["run", "--colour", "busybox"]).contains("'--colour'"));
        assert!(
            bed.fails(125, &["run", "--name", "a b", "busybox", "true"]).contains("invalid container name")
        );
        assert!(bed.fails(125, &["run", "-u", "nobody", "busybox", "true"]).contains("user nobody"));
        assert!(
            bed.fails(125, &["run", "--network", "nosuch", "busybox", "true"]).contains("no such network")
        );
        assert!(bed.fails(125, &["create", "--cap-add", "X", "busybox", "true"]).contains("capability 'X'"));
        for verb in ["run", "create", "exec"] {
            let mut command = std::process::Command::new(crate::bed::MICA);
            command.arg("--root").arg(bed.root()).args([
                "--storage-driver",
                "nosuch",
                verb,
                "busybox",
                "true",
            ]);
            let answer = Answer::from(command.output().unwrap());
            assert_eq!(answer.status, Some(125), "{verb}: {answer:?}");
            assert!(answer.err.contains("those that exist are: "), "{answer:?}");
        }
        let long = "x".repeat(256);
        assert!(bed.fails(125, &["create", "--name", &long, "busybox", "true"]).contains("256 characters"));
        // What was refused before it was made is not there; what failed to start is, as it was created.
        let left = bed.ok(&["ps", "-a", "--format", "{{.Status}}"]);
        assert!(left.lines().all(|status| status == "Created"), "{left}");
    });
}

#[test]
fn a_value_that_begins_with_a_dash_is_refused_for_what_it_says() {
    once(|bed| {
        let refusals = [
            (["-u", "-1"], "invalid user -1: numbers of users and groups are from 0"),
            (["--memory", "-5"], "invalid value '-5' for '--memory <SIZE>': not a size"),
            (["--cpus", "-1"], "--cpus -1: give a number from 0.01"),
            (["--name", "-x"], "invalid container name (-x)"),
            (["-w", "-x"], "the working directory '-x' must be an absolute path"),
            (["-h", "-x!"], "invalid hostname '-x!'"),
            (["--ulimit", "-x"], "invalid ulimit '-x'"),
            (["--network", "-x"], "no such network: -x"),
            (["--log-opt", "--rm"], "log option '--rm'"),
        ];
        for (flag, why) in refusals {
            let text = bed.fails(125, &[&["run", "--rm"], &flag[..], &["busybox", "true"]].concat());
            assert!(text.contains(why), "{flag:?}: {text}");
        }
        let env = bed.ok(&["run", "--rm", "-e", "-A=-1", "--label", "-l", "busybox", "env"]);
        assert!(env.contains("-A=-1\n"), "{env}");
    });
}

#[test]
fn an_argument_that_is_not_utf_8_is_named() {
    use std::os::unix::ffi::OsStrExt;
    once(|bed| {
        let bad = std::ffi::OsStr::from_bytes(b"no\xffname");
        for (verb, status) in [(["ps", "-f"], 1), (["run", "-e"], 125)] {
            let output = bed.command(&verb).arg(bad).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                (output.status.code(), text.as_str()),
                (Some(status), "mica: not UTF-8: 'no\\xffname'\n")
            );
        }
    });
}

#[test]
fn the_short_flag_h_is_the_hostname_as_dockers() {
    once(|bed| assert_eq!(bed.sh(&["-h", "box"], "cat /proc/sys/kernel/hostname"), "box\n"));
}

#[test]
fn writes_of_the_first_run_are_there_in_the_second() {
    each_runtime(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "sh", "-c", "echo run >> /log; wc -l < /log"]);
        assert_eq!(bed.ok(&["start", "-a", "c"]).trim(), "1");
        assert_eq!(bed.ok(&["start", "-a", "c"]).trim(), "2");
        assert_eq!(bed.ok(&["logs", "c"]).split_whitespace().collect::<Vec<_>>(), ["1", "2"]);
    });
}

#[test]
fn a_container_that_removes_itself_leaves_nothing_however_it_ends() {
    each_runtime(|bed| {
        bed.run(&["run", "--rm", "-v", "/anonymous", "busybox", "false"]);
        bed.run(&["run", "--rm", "busybox", "nosuch"]);
        bed.ok(&["run", "-d", "--rm", "--name", "k", "busybox", "sleep", "100"]);
        bed.ok(&["stop", "-t", "0", "k"]);
        assert_eq!(bed.ok(&["ps", "-aq"]), "");
        assert_eq!(std::fs::read_dir(bed.root().join("volumes")).unwrap().count(), 0);
    });
}

#[test]
fn a_stop_asks_first_with_the_signal_that_was_chosen() {
    either_runtime(|bed| {
        let script = "trap 'echo asked; exit 5' USR1; echo up; while true; do sleep 0.05; done";
        bed.ok(&["run", "-d", "--name", "a", "--stop-signal", "USR1", "busybox", "sh", "-c", script]);
        eventually("the trap is set", || bed.ok(&["logs", "a"]) == "up\n");
        bed.ok(&["stop", "a"]);
        assert_eq!(bed.field("a", "{{.State.ExitCode}}"), "5");
        assert_eq!(bed.ok(&["logs", "a"]), "up\nasked\n");
        // The first process of a pid namespace ignores signals that it has no handler for.
        bed.ok(&["run", "-d", "--name", "b", "busybox", "sleep", "100"]);
        bed.ok(&["stop", "-t", "0", "b"]);
        assert_eq!(bed.field("b", "{{.State.ExitCode}}"), "137");
        bed.ok(&["stop", "b"]);
    });
}

#[test]
fn signals_reach_the_container_by_name_number_and_through_the_client() {
    either_runtime(|bed| {
        let script =
            "trap 'echo hup' HUP; trap 'echo term; exit 9' TERM; echo up; while true; do sleep 0.05; done";
        let mut client = bed.spawn(&mut bed.command(&["run", "--name", "t", "busybox", "sh", "-c", script]));
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "up");
        bed.ok(&["kill", "-s", "HUP", "t"]);
        assert_eq!(lines.next().unwrap(), "hup");
        bed.ok(&["kill", "-s", "1", "t"]);
        assert_eq!(lines.next().unwrap(), "hup");
        let pid = Pid::from_raw(client.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(lines.next().unwrap(), "term");
        assert_eq!(client.wait().unwrap().code(), Some(9));
        assert!(bed.fails(1, &["kill", "-s", "NOPE", "t"]).contains("invalid signal: NOPE"));
    });
}

#[test]
fn input_ends_when_the_clients_does_while_output_goes_on() {
    each_runtime(|bed| {
        let answer = bed
            .with_input(&["run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; echo done"], &[b'x'; 200_000]);
        assert_eq!((answer.status, answer.out.as_str()), (Some(0), "200000\ndone\n"), "{answer:?}");
        // Without -i there is none.
        let answer = bed.with_input(&["run", "--rm", "busybox", "wc", "-c"], b"ignored");
        assert_eq!(answer.out, "0\n", "{answer:?}");
    });
}

#[test]
fn the_two_streams_stay_apart_and_no_byte_is_lost() {
    either_runtime(|bed| {
        let script = "seq 1 30000; echo oops >&2; exit 4";
        let answer = bed.run(&["run", "--name", "o", "busybox", "sh", "-c", script]);
        let expected: String = (1..=30_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(answer.status, Some(4));
        assert!(answer.out == expected && answer.err == "oops\n", "{} bytes", answer.out.len());
        let logs = bed.run(&["logs", "o"]);
        assert!(logs.out == expected && logs.err == "oops\n");
    });
}

#[test]
fn a_container_outlives_its_client() {
    either_runtime(|bed| {
        let script = "echo one; while ! test -e /go; do sleep 0.02; done; echo two";
        let mut client = bed.spawn(&mut bed.command(&["run", "--name", "c", "busybox", "sh", "-c", script]));
        let mut one = [0; 4];
        client.stdout.as_mut().unwrap().read_exact(&mut one).unwrap();
        kill(client.id().cast_signed());
        client.wait().unwrap();
        // The container may end before this does.
        bed.run(&["exec", "c", "touch", "/go"]);
        assert_eq!(bed.ok(&["wait", "c"]), "0\n");
        assert_eq!(bed.ok(&["logs", "c"]), "one\ntwo\n");
    });
}

#[test]
fn a_client_whose_reader_is_gone_ends_and_the_container_does_not() {
    either_runtime(|bed| {
        let script = "while ! test -e /go; do echo line; sleep 0.01; done";
        let mut client = bed.spawn(&mut bed.command(&["run", "--name", "c", "busybox", "sh", "-c", script]));
        drop(client.stdout.take());
        assert_eq!(client.wait().unwrap().code(), Some(0));
        // The container may end before this does.
        bed.run(&["exec", "c", "touch", "/go"]);
        assert_eq!(bed.ok(&["wait", "c"]), "0\n");
    });
}

#[test]
fn a_container_whose_output_nobody_reads_goes_on_within_the_limits_of_its_log_and_removes_itself_at_the_end()
{
    once(|bed| {
        let limits = ["--log-opt", "max-size=64k", "--log-opt", "max-file=2"];
        let run = [
            &["run", "--rm", "--name", "c"],
            &limits[..],
            &["busybox", "sh", "-c", "while :; do seq 1 9999; done"],
        ];
        let mut client = bed.spawn(&mut bed.command(&run.concat()));
        let mut line = [0; 2];
        client.stdout.take().unwrap().read_exact(&mut line).unwrap();
        let ended = Answer::from(client.wait_with_output().unwrap());
        assert_eq!((ended.status, ended.err.as_str()), (Some(0), ""));
        let log = bed.root().join("containers").join(bed.field("c", "{{.Id}}"));
        let size = |name: &str| std::fs::metadata(log.join(name)).map_or(0, |meta| meta.len());
        let (current, older) = (
            format!("{}-json.log", bed.field("c", "{{.Id}}")),
            format!("{}-json.log.1", bed.field("c", "{{.Id}}")),
        );
        for _ in 0..3 {
            let before = std::fs::metadata(log.join(&older)).ok().map(|meta| meta.ino());
            eventually("the log is set aside", || {
                std::fs::metadata(log.join(&older)).is_ok_and(|meta| Some(meta.ino()) != before)
            });
            assert!(size(&current) <= 64 << 10 && size(&older) <= 64 << 10);
        }
        bed.ok(&["stop", "-t", "0", "c"]);
        assert_eq!(bed.ok(&["ps", "-aq"]), "");
    });
}

#[test]
fn paused_processes_do_not_go_on_until_they_may() {
    each_runtime(|bed| {
        let script = "while true; do echo tick; sleep 0.01; done";
        bed.ok(&["run", "-d", "--name", "p", "busybox", "sh", "-c", script]);
        bed.ok(&["pause", "p"]);
        assert!(bed.ok(&["ps"]).contains("(Paused)"));
        assert!(bed.fails(1, &["pause", "p"]).contains("already paused"));
        bed.run(&["exec", "p", "true"]).status.filter(|status| *status != 0).unwrap();
        bed.ok(&["unpause", "p"]);
        assert!(bed.fails(1, &["unpause", "p"]).contains("not paused"));
        bed.ok(&["pause", "p"]);
        bed.ok(&["rm", "-f", "p"]);
    });
}

#[test]
fn a_renamed_container_is_found_by_its_new_name_alone() {
    either_runtime(|bed| {
        // A name of hexadecimal digits could begin the id of a container, too.
        bed.ok(&["create", "--name", "old", "busybox", "true"]);
        bed.ok(&["create", "--name", "b", "busybox", "true"]);
        assert!(bed.fails(1, &["rename", "old", "b"]).contains("'/b' is already in use"));
        bed.ok(&["rename", "old", "c"]);
        assert!(bed.fails(1, &["start", "old"]).contains("no such container: old"));
        let id = bed.field("c", "{{.Id}}");
        assert_eq!(bed.field(&id[..12], "{{.Name}}"), "/c");
        assert!(bed.fails(125, &["create", "--name", "c", "busybox", "true"]).contains("already in use"));
    });
}

#[test]
fn a_supervisor_keeps_nothing_of_its_client_open() {
    once(|bed| {
        // A pipe that the shell has open on descriptor 9 must end with the shell, not with the container.
        let script = format!(
            "exec 9>&1; readlink /proc/$$/fd/9; exec {} --root {} run -d --name d busybox sleep 100",
            crate::bed::MICA,
            bed.root().display()
        );
        let mut shell = std::process::Command::new("sh");
        let output = shell.args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success());
        let fds = std::fs::read_dir(format!("/proc/{}/fd", bed.supervisor("d"))).unwrap();
        let targets: Vec<String> =
            fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap().display().to_string()).collect();
        let told = String::from_utf8(output.stdout).unwrap();
        let pipe = told.lines().next().filter(|pipe| pipe.starts_with("pipe:")).unwrap();
        assert!(!targets.iter().any(|target| target == pipe), "{targets:?}");
    });
}

#[test]
fn info_splits_containers_by_what_they_do() {
    once(|bed| {
        bed.ok(&["create", "busybox", "true"]);
        bed.ok(&["run", "busybox", "true"]);
        bed.ok(&["run", "-d", "busybox", "sleep", "100"]);
        bed.ok(&["run", "-d", "--name", "p", "busybox", "sleep", "100"]);
        bed.ok(&["pause", "p"]);
        let text = bed.ok(&["info"]);
        assert!(
            text.starts_with("Containers: 4\n Running: 1\n Paused: 1\n Stopped: 2\nImages: 1\n"),
            "{text}"
        );
    });
}

#[test]
fn a_filter_that_does_not_exist_is_refused_with_those_that_do() {
    once(|bed| {
        let refusals = [
            ("status=bogus", "those that exist are: created, restarting, running"),
            ("colour=red", "those that exist are: ancestor, exited, expose, id"),
            ("running", "write NAME=VALUE"),
            ("exited=x", "give an exit status"),
        ];
        for (filter, why) in refusals {
            let text = bed.fails(1, &["ps", "-f", filter]);
            assert!(text.contains(&format!("invalid filter '{filter}'")) && text.contains(why), "{text}");
        }
    });
}

#[test]
fn filters_of_one_kind_are_alternatives_and_labels_and_kinds_add_up() {
    once(|bed| {
        bed.ok(&["create", "--name", "new", "-l", "a=1", "-l", "b=2", "busybox", "true"]);
        bed.run(&["run", "--name", "old", "-l", "a=1", "busybox", "false"]);
        bed.ok(&["run", "-d", "--name", "now", "busybox", "sleep", "100"]);
        let names = |filters: &[&str]| {
            let flags = filters.iter().flat_map(|filter| ["-f", filter]);
            let arguments: Vec<&str> =
                ["ps", "-a", "--format", "{{.Names}}"].into_iter().chain(flags).collect();
            let text = bed.ok(&arguments);
            let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(names(&["status=created", "status=exited"]), "new old");
        assert_eq!(names(&["status=created", "status=exited", "name=old"]), "old");
        assert_eq!(names(&["label=a=1"]), "new old");
        assert_eq!(names(&["label=a", "label=b=2"]), "new");
        assert_eq!(names(&["exited=1"]), "old");
        assert_eq!(names(&["ancestor=busybox:latest", "name=^/n", "name=w$"]), "new now");
        assert_eq!(names(&["status=dead"]), "");
        assert!(bed.ok(&["ps", "-f", "status=exited"]).contains("old"), "without -a");
    });
}
