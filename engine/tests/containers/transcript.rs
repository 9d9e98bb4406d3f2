//! What an operator types, from the first image to an empty list.

use crate::bed::{Bed, eventually, every_runtime};

#[test]
fn a_container_is_run_changed_committed_and_removed() {
    every_runtime(from_run_to_rm);
}

pub(crate) fn from_run_to_rm(bed: &Bed) {
    let data = bed.path("data");
    let volume = format!("{}:/data", data.display());
    bed.ok(&[
        "run",
        "--name",
        "w",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        "echo hi > /etc/motd; echo x > /data/f",
    ]);
    assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "x\n");
    assert_eq!(bed.ok(&["diff", "w"]), "A /data\nC /etc\nA /etc/motd\n");
    bed.ok(&["commit", "-m", "said hi", "w", "busybox:motd"]);
    assert_eq!(bed.ok(&["run", "--rm", "busybox:motd", "cat", "/etc/motd"]), "hi\n");
    assert!(bed.ok(&["history", "busybox:motd"]).contains("said hi"));
    let archive = bed.path("w.tar");
    bed.ok(&["export", "-o", archive.to_str().unwrap(), "w"]);
    let listed = std::process::Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().lines().any(|line| line == "etc/motd"));
    bed.ok(&["cp", "w:/etc/motd", bed.path("").to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(bed.path("motd")).unwrap(), "hi\n");
    assert!(bed.ok(&["ps", "-as"]).lines().nth(1).unwrap().contains("(virtual "));
    assert_eq!(bed.field("w", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    assert_eq!(bed.field("w", "{{.GraphDriver.Name}}"), bed.driver);
    assert_eq!(bed.ok(&["rm", "w"]), "w\n");
    assert_eq!(bed.ok(&["ps", "-aq"]), "");
    bed.ok(&["rmi", "busybox:motd"]);
}

#[test]
fn a_detached_container_is_entered_followed_stopped_and_removed() {
    every_runtime(detached);
}

pub(crate) fn detached(bed: &Bed) {
    let id = bed.ok(&[
        "run",
        "-d",
        "--name",
        "s",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo up; sleep 1000 & wait",
    ]);
    assert_eq!(id.trim().len(), 64);
    eventually("the trap is set", || bed.ok(&["logs", "s"]) == "up\n");
    assert!(bed.ok(&["exec", "s", "id"]).starts_with("uid=0(root)"));
    let follow = bed.spawn(&mut bed.command(&["logs", "-f", "s"]));
    assert!(bed.ok(&["ps"]).contains("Up "));
    let waiting = bed.spawn(&mut bed.command(&["wait", "s"]));
    assert_eq!(bed.ok(&["stop", "s"]), "s\n");
    assert_eq!(String::from_utf8(waiting.wait_with_output().unwrap().stdout).unwrap(), "7\n");
    assert_eq!(String::from_utf8(follow.wait_with_output().unwrap().stdout).unwrap(), "up\n");
    assert_eq!(bed.ok(&["wait", "s"]), "7\n");
    assert!(bed.fails(1, &["kill", "s"]).contains("cannot kill container s: it is not running"));
    assert!(bed.ok(&["ps", "-a"]).contains("Exited (7)"));
    bed.ok(&["start", "s"]);
    assert!(bed.fails(1, &["rm", "s"]).contains("it is running"));
    assert_eq!(bed.ok(&["rm", "-f", "s"]), "s\n");
}

#[test]
fn two_drivers_run_the_same_image_side_by_side() {
    crate::bed::once(|bed| {
        let names = bed.ok(&["drivers", "--format", "{{.Name}} {{.Status}}"]);
        let names: Vec<&str> = names.lines().filter_map(|line| line.strip_suffix(" available")).collect();
        for name in &names {
            let arguments =
                ["--storage-driver", name, "run", "-d", "--name", name, "busybox", "sleep", "100"];
            // The later of two flags would be refused, so this goes without the bed's.
            let mut command = std::process::Command::new(crate::bed::MICA);
            let answer = command.arg("--root").arg(bed.root()).args(arguments).output().unwrap();
            assert!(answer.status.success(), "{answer:?}");
        }
        for name in &names {
            assert_eq!(bed.field(name, "{{.Driver}}"), *name);
            assert_eq!(bed.ok(&["exec", name, "cat", "/srv/page"]), "from the image\n");
        }
    });
}
