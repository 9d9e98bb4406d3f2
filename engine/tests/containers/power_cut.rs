//! What a power cut can leave of what was never synced: files without content, and layers of which nobody knows.
//!
//! `cargo xtask power-cut` cuts the power of a kernel for real; here the host is only said to have been started again.

use std::fs;

use crate::bed::{Bed, each};

/// The next command is the first one after a start of the host.
fn restart(bed: &Bed) {
    fs::write(bed.root().join("boot"), "another start\n").unwrap();
}

fn id(bed: &Bed, name: &str) -> String {
    bed.ok(&["inspect", "--format", "{{.Id}}", name]).trim().to_owned()
}

#[test]
fn a_container_that_removes_itself_is_gone_whether_its_record_was_lost_or_not() {
    each(|bed| {
        for lose_record in [true, false] {
            bed.ok(&["create", "--rm", "--name", "c", "busybox", "true"]);
            let dir = bed.root().join("containers").join(id(bed, "c"));
            if lose_record {
                fs::write(dir.join("config.json"), "").unwrap();
            }
            bed.ok(&["images"]);
            assert!(dir.exists(), "nothing is swept while the host goes on");
            restart(bed);
            assert_eq!(bed.ok(&["ps", "-aq"]), "");
            assert!(!dir.exists());
            bed.assert_consistent();
            // The name is free.
            bed.ok(&["create", "--name", "c", "busybox", "true"]);
            bed.ok(&["rm", "c"]);
        }
    });
}

#[test]
fn a_container_that_stays_has_ended_and_has_its_files() {
    each(|bed| {
        bed.ok(&["run", "--name", "c", "busybox", "sh", "-c", "echo kept > /file"]);
        let state = bed.root().join("containers").join(id(bed, "c")).join("state.json");
        fs::write(&state, "").unwrap();
        restart(bed);
        assert_eq!(bed.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "c exited\n");
        bed.ok(&["cp", "c:/file", bed.path("file").to_str().unwrap()]);
        assert_eq!(fs::read_to_string(bed.path("file")).unwrap(), "kept\n");
        bed.ok(&["rm", "c"]);
        bed.assert_consistent();
    });
}

#[test]
fn a_layer_that_nothing_names_goes_unless_a_record_cannot_be_read() {
    each(|bed| {
        bed.ok(&["create", "--name", "lost", "busybox", "true"]);
        bed.ok(&["create", "--name", "damaged", "busybox", "true"]);
        let containers = bed.root().join("containers");
        fs::remove_dir_all(containers.join(id(bed, "lost"))).unwrap();
        let record = containers.join(id(bed, "damaged")).join("config.json");
        let content = fs::read(&record).unwrap();
        fs::remove_file(&record).unwrap();
        restart(bed);
        bed.ok(&["images"]);
        fs::write(&record, "{").unwrap();
        restart(bed);
        let told = bed.run(&["storage", "check"]).out;
        assert!(told.contains("is damaged"), "{told}");
        // Neither layer is gone: the damaged one's is among those that nobody can name.
        fs::write(&record, content).unwrap();
        let told = bed.run(&["storage", "check"]).out;
        assert_eq!(told.matches("nothing names layer").count(), 1, "{told}");
        restart(bed);
        bed.ok(&["start", "damaged"]);
        bed.ok(&["rm", "-f", "damaged"]);
        bed.assert_consistent();
    });
}
