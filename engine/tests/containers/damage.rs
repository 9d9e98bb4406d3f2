//! A record that cannot be read stands for one container, and does not stop what is done with others.

use std::fs;

use crate::bed::once;

#[test]
fn a_container_with_a_damaged_record_or_state_is_told_and_removed_and_the_others_go_on() {
    for file in ["config.json", "state.json"] {
        once(|bed| {
            let id = bed.ok(&["create", "--name", "bad", "busybox", "true"]).trim().to_owned();
            bed.ok(&["create", "--name", "good", "busybox", "true"]);
            let path = bed.root().join("containers").join(&id).join(file);
            fs::write(&path, "{").unwrap();
            for verb in [&["ps", "-aq", "--no-trunc"][..], &["info"], &["system", "df"]] {
                let answer = bed.run(verb);
                assert_eq!(answer.status, Some(0), "{answer:?}");
            }
            let listed = bed.run(&["ps", "-a", "--format", "{{.Names}}"]);
            assert_eq!((listed.status, listed.out.as_str()), (Some(0), "good\n"));
            assert!(listed.err.starts_with("mica: warning: ") && listed.err.contains(&id), "{listed:?}");
            bed.ok(&["start", "-a", "good"]);
            bed.sh(&[], "true");
            bed.ok(&["rm", "good"]);
            assert!(bed.fails(1, &["rm", "bad"]).contains(file));
            let found = bed.run(&["storage", "check", "--repair"]);
            assert_eq!(found.status, Some(1), "{found:?}");
            assert!(found.out.contains(&id) && found.out.contains("'mica rm -f'"), "{found:?}");
            bed.ok(&["rm", "-f", "bad"]);
            // Nothing says which layer a container has whose record is lost.
            bed.run(&["storage", "check", "--repair"]);
            bed.ok(&["create", "--name", "bad", "busybox", "true"]);
        });
    }
}

#[test]
fn a_damaged_container_that_runs_is_not_removed() {
    once(|bed| {
        let id = bed.ok(&["run", "-d", "--name", "c", "busybox", "sleep", "1000"]).trim().to_owned();
        let path = bed.root().join("containers").join(&id).join("config.json");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(bed.fails(1, &["rm", "-f", &id]).contains("is running"));
        fs::write(&path, whole).unwrap();
        assert_eq!(bed.field("c", "{{.State.Running}}"), "true");
    });
}
