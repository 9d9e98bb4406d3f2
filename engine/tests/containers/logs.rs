//! What a container printed.

use crate::bed::{each_runtime, either_runtime, eventually};

#[test]
fn a_log_is_shown_from_an_end_from_a_time_and_with_times() {
    either_runtime(|bed| {
        bed.ok(&[
            "run",
            "--name",
            "c",
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo $i; done; printf end",
        ]);
        assert_eq!(bed.ok(&["logs", "c"]), "1\n2\n3\n4\n5\nend");
        assert_eq!(bed.ok(&["logs", "--tail", "2", "c"]), "5\nend");
        assert_eq!(bed.ok(&["logs", "--tail", "0", "c"]), "");
        assert_eq!(bed.ok(&["logs", "--since", "1h", "-n", "1", "c"]), "end");
        assert_eq!(bed.ok(&["logs", "--until", "1h", "c"]), "");
        let text = bed.ok(&["logs", "-t", "c"]);
        let (time, rest) = text.lines().next().unwrap().split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() > 20 && rest == "1", "{text}");
        assert!(bed.fails(1, &["logs", "--tail", "x", "c"]).contains("'all'"));
        assert!(bed.fails(1, &["logs", "--since", "never", "c"]).contains("invalid time 'never'"));
        bed.ok(&["create", "--name", "n", "busybox", "true"]);
        assert_eq!(bed.ok(&["logs", "-f", "n"]), "", "one that never ran has none");
    });
}

#[test]
fn following_ends_with_the_container_and_misses_nothing() {
    each_runtime(|bed| {
        let script = "while ! test -e /go; do sleep 0.02; done; seq 1 5000";
        bed.ok(&["run", "-d", "--rm", "--name", "c", "busybox", "sh", "-c", script]);
        let follow = bed.spawn(&mut bed.command(&["logs", "-f", "c"]));
        // The container may end before this does.
        bed.run(&["exec", "c", "touch", "/go"]);
        let text = String::from_utf8(follow.wait_with_output().unwrap().stdout).unwrap();
        // Who begins to follow when the container is gone already is told that.
        if !text.is_empty() {
            assert_eq!(text.lines().count(), 5000);
        }
        eventually("it has removed itself", || bed.ok(&["ps", "-aq"]).is_empty());
    });
}

#[test]
fn a_log_keeps_to_its_limits_and_is_read_across_its_files() {
    either_runtime(|bed| {
        let limits = ["--log-opt", "max-size=4k", "--log-opt", "max-file=3"];
        bed.ok(&[
            &["run", "--name", "c"],
            &limits[..],
            &["busybox", "sh", "-c", "for i in $(seq 1 300); do echo $i; done"],
        ]
        .concat());
        let dir = bed.root().join("containers").join(bed.field("c", "{{.Id}}"));
        let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
        let logs: Vec<_> =
            files.filter(|file| file.file_name().to_string_lossy().contains("-json.log")).collect();
        assert!(logs.len() == 3 && logs.iter().all(|log| log.metadata().unwrap().len() <= 4096), "{logs:?}");
        let text = bed.ok(&["logs", "c"]);
        let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&300));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "in order and without a gap");
    });
}
