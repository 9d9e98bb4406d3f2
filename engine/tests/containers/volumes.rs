//! Volumes, bind mounts and the files that belong to a container.

use std::fs;

use crate::bed::{each, each_runtime, once};

#[test]
fn a_named_volume_is_filled_from_the_image_once_and_kept() {
    each(|bed| {
        assert_eq!(bed.sh(&["-v", "data:/srv"], "cat /srv/page; echo mine > /srv/page"), "from the image\n");
        assert_eq!(bed.sh(&["-v", "data:/srv"], "cat /srv/page; stat -c %a /srv/page"), "mine\n600\n");
        assert_eq!(
            bed.sh(&["-v", "data:/other:ro"], "cat /other/page; touch /other/x 2>/dev/null || echo ro"),
            "mine\nro\n"
        );
        fs::remove_dir_all(bed.root().join("volumes/data")).unwrap();
        // A crash while it is filled leaves it new.
        bed.with_failpoint("volume.filled", &["run", "--name", "c", "-v", "data:/srv", "busybox", "true"]);
        assert_eq!(bed.sh(&["-v", "data:/srv"], "cat /srv/page"), "from the image\n");
        assert!(bed.fails(125, &["create", "-v", "a b:/x", "busybox", "true"]).contains("no volume name"));
    });
}

#[test]
fn a_volume_without_a_name_goes_with_its_container_when_asked() {
    once(|bed| {
        let volumes = || fs::read_dir(bed.root().join("volumes")).unwrap().count();
        bed.ok(&["run", "--name", "c", "-v", "/srv", "busybox", "test", "-e", "/srv/page"]);
        assert_eq!(volumes(), 1);
        bed.ok(&["rm", "-v", "c"]);
        assert_eq!(volumes(), 0);
    });
}

#[test]
fn directories_and_files_of_the_host_show_up() {
    each_runtime(|bed| {
        let file = bed.file("note", b"hello\n");
        let (one, two) =
            (format!("{file}:/etc/note:ro"), format!("{}:/new/place", bed.path("made").display()));
        let text = bed.sh(
            &["-v", &one, "-v", &two],
            "cat /etc/note; echo x > /new/place/f; echo y > /etc/note || echo ro",
        );
        assert_eq!(text, "hello\nro\n");
        assert_eq!(fs::read_to_string(bed.path("made").join("f")).unwrap(), "x\n");
        assert!(bed.fails(125, &["create", "-v", "/a:/", "busybox", "true"]).contains("mount target"));
        assert!(
            bed.fails(125, &["create", "-v", "/a:/x", "-v", "/b:/x", "busybox", "true"])
                .contains("two mounts at '/x'")
        );
    });
}

#[test]
fn the_files_of_a_container_are_its_own_and_never_committed() {
    each(|bed| {
        let script = "hostname > /dev/null; echo 1.2.3.4 x >> /etc/hosts; echo changed > /etc/hostname; cat /etc/hosts | wc -l";
        bed.ok(&["run", "--name", "c", "--hostname", "h", "busybox", "sh", "-c", script]);
        assert_eq!(bed.ok(&["diff", "c"]), "");
        assert!(
            bed.ok(&["start", "-a", "c"]).trim().parse::<u32>().unwrap() > 8,
            "the second run sees the first one's line"
        );
        bed.ok(&["commit", "c", "busybox:x"]);
        assert_eq!(bed.ok(&["run", "--rm", "--hostname", "k", "busybox:x", "cat", "/etc/hostname"]), "k\n");
        bed.ok(&["rm", "c"]);
        bed.ok(&["rmi", "busybox:x"]);
    });
}

#[test]
fn disk_usage_tells_volumes_in_use_from_those_that_could_go() {
    once(|bed| {
        let row = || {
            let text = bed.ok(&["system", "df"]);
            let row = text.lines().find(|line| line.starts_with("Local Volumes")).unwrap();
            row.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row(), ["0", "0", "0B", "0B"]);
        bed.ok(&[
            "run",
            "--name",
            "c",
            "-v",
            "data:/data",
            "-v",
            "/anonymous",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/zero of=/data/f bs=1000 count=2000; echo x > /anonymous/f",
        ]);
        let used = row();
        assert_eq!(used[..2], ["2", "2"]);
        assert!(used[2].starts_with("2.0") && used[2].ends_with("MB"), "{used:?}");
        assert_eq!(used[3..], ["0B", "(0%)"], "what a container needs, running or not, stays");
        bed.ok(&["rm", "-v", "c"]);
        let free = row();
        assert_eq!(free[..2], ["1", "0"], "the one without a name went with its container");
        assert_eq!(free[3..], [free[2].clone(), "(100%)".to_owned()]);
    });
}
