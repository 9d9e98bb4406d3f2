//! Several commands at once.

use std::thread::{self, ScopedJoinHandle};

use crate::bed::{Bed, each, once};

#[test]
fn one_of_two_creations_of_one_name_wins() {
    once(|bed| {
        let create = || bed.spawn(&mut bed.command(&["create", "--name", "c", "busybox", "true"]));
        let both = [create(), create()];
        let answers = both.map(|child| child.wait_with_output().unwrap());
        let won = answers.iter().filter(|answer| answer.status.success()).count();
        assert_eq!(won, 1, "{answers:?}");
        let lost = answers.iter().find(|answer| !answer.status.success()).unwrap();
        assert!(String::from_utf8_lossy(&lost.stderr).contains("'/c' is already in use"), "{answers:?}");
        assert_eq!(bed.ok(&["ps", "-aq"]).lines().count(), 1);
    });
}

#[test]
fn a_container_is_started_once_however_many_start_it() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "sleep", "100"]);
        let starts: Vec<_> = (0..4).map(|_| bed.spawn(&mut bed.command(&["start", "c"]))).collect();
        for start in starts {
            let answer = start.wait_with_output().unwrap();
            assert!(answer.status.success(), "to start what runs is fine: {answer:?}");
        }
        assert_eq!(bed.ok(&["top", "c"]).lines().count(), 2);
    });
}

#[test]
fn a_container_is_removed_once_however_many_remove_it() {
    once(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        let removals: Vec<_> = (0..4).map(|_| bed.spawn(&mut bed.command(&["rm", "-f", "c"]))).collect();
        let answers: Vec<_> = removals.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
        assert!(answers.iter().any(|answer| answer.status.success()), "{answers:?}");
        for answer in answers.iter().filter(|answer| !answer.status.success()) {
            assert!(String::from_utf8_lossy(&answer.stderr).contains("no such container: c"), "{answers:?}");
        }
    });
}

#[test]
fn a_forced_removal_is_not_refused_because_somebody_starts_the_container_again() {
    once(|bed| {
        for _ in 0..4 {
            bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
            let restarts: Vec<_> =
                (0..3).map(|_| bed.spawn(&mut bed.command(&["restart", "-t", "0", "c"]))).collect();
            bed.ok(&["rm", "-f", "c"]);
            restarts.into_iter().for_each(|restart| drop(restart.wait_with_output().unwrap()));
            assert_eq!(bed.ok(&["ps", "-aq"]), "");
        }
    });
}

#[test]
fn many_run_at_once_and_nothing_is_left() {
    each(many_at_once);
}

pub(crate) fn many_at_once(bed: &Bed) {
    let run =
        |number: usize| bed.spawn(&mut bed.command(&["run", "--rm", "busybox", "echo", &number.to_string()]));
    let children: Vec<_> = (0..8).map(run).collect();
    for (number, child) in children.into_iter().enumerate() {
        let answer = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{number}\n"), "{answer:?}");
    }
    assert_eq!(bed.ok(&["ps", "-aq"]), "");
}

#[test]
fn who_waits_too_long_is_told_for_what() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        let dir = bed.root().join("containers").join(bed.field("c", "{{.Id}}"));
        let lock = std::fs::File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        std::fs::write(dir.join("lock"), "being started by process 77\n").unwrap();
        let text = bed.fails(1, &["rm", "c"]);
        assert!(text.contains("container c is being started by process 77; try again"), "{text}");
    });
}

/// What looks at a container or copies from it, whatever it is doing.
fn looks(bed: &Bed) -> Vec<Vec<String>> {
    let out = |name: &str| bed.path(name).to_str().unwrap().to_owned();
    let words = |line: &[&str]| line.iter().map(ToString::to_string).collect();
    vec![
        words(&["commit", "c"]),
        words(&["export", "-o", &out("c.tar"), "c"]),
        words(&["diff", "c"]),
        words(&["cp", "c:/etc/passwd", &out("passwd")]),
    ]
}

#[test]
fn a_container_is_committed_exported_compared_and_copied_from_while_it_is_started_and_stopped() {
    each(|bed| {
        let script = "echo x > /new; trap 'exit 0' TERM; while :; do sleep 0.01; done";
        bed.ok(&["create", "--name", "c", "busybox", "sh", "-c", script]);
        thread::scope(|scope| {
            let looking = looks(bed).into_iter().map(|line| {
                scope.spawn(move || {
                    let line: Vec<&str> = line.iter().map(String::as_str).collect();
                    (0..8).for_each(|_| drop(bed.ok(&line)));
                })
            });
            let looking: Vec<_> = looking.collect();
            while !looking.iter().all(ScopedJoinHandle::is_finished) {
                bed.ok(&["start", "c"]);
                bed.ok(&["stop", "-t", "1", "c"]);
            }
        });
        assert_eq!(bed.ok(&["diff", "c"]), "A /new\n");
    });
}

#[test]
fn two_who_only_look_at_a_stopped_container_do_not_wait_for_each_other() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        let dir = bed.root().join("containers").join(bed.field("c", "{{.Id}}"));
        let lock = std::fs::File::create(dir.join("lock")).unwrap();
        lock.lock_shared().unwrap();
        for line in &looks(bed)[..3] {
            bed.ok(&line.iter().map(String::as_str).collect::<Vec<_>>());
        }
    });
}
