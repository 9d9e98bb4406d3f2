//! What the command line takes, and what it refuses.

use crate::bed::once;

#[test]
fn flags_are_given_as_dockers_are() {
    once(|bed| {
        let arguments = ["run", "--rm=false", "-d=false", "--name", "x", "--name", "c", "busybox", "true"];
        bed.ok(&arguments);
        assert_eq!(bed.ok(&["ps", "-a=true", "--format", "{{.Names}}"]), "c\n", "the last of two holds");
        assert!(bed.fails(125, &["run", "--rm=maybe", "busybox", "true"]).contains("'maybe'"));
        // A name may have the slash that Docker shows it with, and an empty one is none.
        bed.ok(&["rename", "c", "/d"]);
        assert!(
            bed.fails(125, &["create", "--name", "/d", "busybox", "true"]).contains("'/d' is already in use")
        );
        bed.ok(&["create", "--name", "", "-h", "", "busybox", "true"]);
        assert_eq!(bed.ok(&["ps", "-aq", "-n", "1"]).lines().count(), 1);
        assert_eq!(bed.ok(&["ps", "-aq", "-n", "-1"]).lines().count(), 2);
        assert_eq!(bed.ok(&["logs", "--tail", "-1", "d"]), "");
        assert!(bed.ok(&["-v"]).starts_with("mica "));
        assert!(bed.fails(125, &["run"]).contains("'mica run --help'"));
    });
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    once(|bed| {
        assert!(
            bed.fails(125, &["run", "--cpus", "99999", "busybox", "true"])
                .contains("give a number from 0.01")
        );
        assert!(bed.fails(125, &["run", "--cpus", "x", "busybox", "true"]).contains("not a number"));
        assert!(
            bed.fails(125, &["run", "--pids-limit", "x", "busybox", "true"]).contains("not a whole number")
        );
        assert!(bed.fails(125, &["run", "-l", "=x", "busybox", "true"]).contains("invalid label '=x'"));
        assert!(bed.fails(1, &["stop", "-t", "x", "c"]).contains("not a whole number"));
    });
}

#[test]
fn what_is_not_there_is_no_failure_of_a_forced_removal() {
    once(|bed| {
        assert!(bed.fails(1, &["rm", "c"]).contains("no such container: c"));
        assert!(bed.fails(0, &["rm", "-f", "c"]).contains("no such container: c"));
    });
}

#[test]
fn a_paused_container_is_not_said_to_run() {
    once(|bed| {
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "100"]);
        bed.ok(&["pause", "c"]);
        assert!(bed.fails(1, &["start", "c"]).contains("container c is paused; unpause it"));
    });
}

#[test]
fn without_a_command_no_container_is_made() {
    once(|bed| {
        for verb in ["run", "create"] {
            assert!(bed.fails(125, &[verb, "busybox"]).contains("no command"));
            assert_eq!(bed.ok(&["ps", "-aq"]), "", "{verb}");
        }
    });
}
