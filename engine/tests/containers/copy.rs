//! Copying into a container and out of one, also against its will.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::bed::{Bed, each_runtime, once};

/// Does the same to a container that runs and to one that does not.
fn both(test: impl Fn(&Bed, &str)) {
    each_runtime(|bed| {
        bed.ok(&["create", "--name", "still", "busybox", "true"]);
        bed.ok(&["run", "-d", "--name", "live", "busybox", "sleep", "100"]);
        for name in ["still", "live"] {
            test(bed, name);
        }
    });
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn files_and_directories_go_in_and_come_out() {
    both(|bed, name| {
        let at = |path: &str| format!("{name}:{path}");
        let place = bed.path(name);
        fs::create_dir_all(place.join("in/deep")).unwrap();
        fs::write(place.join("in/deep/file"), "deep\n").unwrap();
        fs::hard_link(place.join("in/deep/file"), place.join("in/again")).unwrap();
        symlink("deep/file", place.join("in/link")).unwrap();
        let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
        // Into a directory that exists, under a new name, its contents alone, and over a file.
        bed.ok(&["cp", &path("in"), &at("/tmp")]);
        bed.ok(&["cp", &path("in"), &at("/tmp/new")]);
        bed.ok(&["cp", &(path("in") + "/."), &at("/root")]);
        bed.ok(&["cp", &path("in/deep/file"), &at("/etc/passwd")]);
        for there in ["/tmp/in", "/tmp/new", "/root", "/etc/passwd", "/srv/page"] {
            bed.ok(&[
                "cp",
                "-a",
                &at(there),
                &place.join("out").to_str().map(|out| format!("{out}{}", there.replace('/', "_"))).unwrap(),
            ]);
        }
        for copy in ["out_tmp_in", "out_tmp_new", "out_root"] {
            assert_eq!(read(place.join(copy).join("deep/file")), "deep\n", "{copy}");
            assert_eq!(fs::read_link(place.join(copy).join("link")).unwrap(), Path::new("deep/file"));
            let (a, b) = (place.join(copy).join("again"), place.join(copy).join("deep/file"));
            assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino(), "one file stays one");
        }
        assert_eq!(read(place.join("out_etc_passwd")), "deep\n");
        assert_eq!(place.join("out_srv_page").metadata().unwrap().mode() & 0o777, 0o600);
        assert!(bed.fails(1, &["cp", &at("/nosuch"), &path("x")]).contains("no such path: /nosuch"));
        assert!(
            bed.fails(1, &["cp", &path("in"), &at("/srv/page")])
                .contains("cannot copy a directory to the file")
        );
        assert!(bed.fails(1, &["cp", &path("in/again"), &at("/no/")]).contains("must exist"));
    });
}

#[test]
fn tarballs_go_in_and_come_out() {
    both(|bed, name| {
        let out = bed.command(&["cp", &format!("{name}:/srv"), "-"]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let tar = bed.path("srv.tar");
        fs::write(&tar, &out.stdout).unwrap();
        let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "srv/\nsrv/page\n");
        let answer = bed.with_input(&["cp", "-", &format!("{name}:/tmp")], &out.stdout);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        bed.ok(&["cp", &format!("{name}:/tmp/srv/page"), bed.path("page").to_str().unwrap()]);
        assert_eq!(read(bed.path("page")), "from the image\n");
        let answer = bed.with_input(
            &["cp", "-", &format!("{name}:/tmp")],
            b"no tarball at all, but long enough for a header",
        );
        assert_eq!(answer.status, Some(1), "{answer:?}");
    });
}

#[test]
fn links_of_a_container_lead_nowhere_on_the_host() {
    both(|bed, name| {
        let outside = bed.path("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("secret"), "the host's").unwrap();
        // The container plants links that mean the host's files when they are followed from there.
        let target = outside.to_str().unwrap();
        let plant = bed.path("plant");
        fs::create_dir_all(&plant).unwrap();
        for (link, target) in [
            ("abs", target.to_owned()),
            ("up", format!("../../../../../../../..{target}")),
            ("file", format!("{target}/secret")),
        ] {
            let _ = fs::remove_file(plant.join(link));
            symlink(target, plant.join(link)).unwrap();
        }
        bed.ok(&["cp", plant.to_str().unwrap(), &format!("{name}:/tmp")]);
        let stolen = bed.path("stolen");
        for path in ["abs/secret", "up/secret"] {
            let text = bed.fails(1, &["cp", &format!("{name}:/tmp/plant/{path}"), stolen.to_str().unwrap()]);
            assert!(text.contains("no such path"), "{text}");
        }
        bed.fails(1, &["cp", "-L", &format!("{name}:/tmp/plant/file"), stolen.to_str().unwrap()]);
        assert!(!stolen.exists());
        let evil = bed.file("evil", b"overwritten");
        for path in ["abs/", "up/", "abs/secret", "abs/new"] {
            bed.fails(1, &["cp", &evil, &format!("{name}:/tmp/plant/{path}")]);
        }
        assert_eq!(read(outside.join("secret")), "the host's");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    });
}

#[test]
fn a_link_that_replaces_a_directory_meanwhile_wins_nothing() {
    once(|bed| {
        let outside = bed.path("outside");
        fs::create_dir_all(&outside).unwrap();
        let script = format!(
            "mkdir /d; while true; do rm -rf /x; ln -s {} /x; rm -f /x; mkdir /x; done",
            outside.display()
        );
        bed.ok(&["run", "-d", "--name", "c", "busybox", "sh", "-c", &script]);
        let evil = bed.file("evil", b"x");
        for _ in 0..50 {
            // Whether it works depends on what is there at that moment.
            bed.run(&["cp", &evil, "c:/x/file"]);
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    });
}

#[test]
fn a_copy_reaches_volumes_whether_the_container_runs_or_not() {
    both(|bed, name| {
        let volume = format!("{}:/v", bed.path("volume").display());
        bed.ok(&["create", "--name", "v", "-v", &volume, "busybox", "sleep", "100"]);
        fs::create_dir_all(bed.path("volume")).unwrap();
        if name == "live" {
            bed.ok(&["start", "v"]);
        }
        let file = bed.file("f", b"in the volume");
        bed.ok(&["cp", &file, "v:/v/"]);
        assert_eq!(read(bed.path("volume").join("f")), "in the volume");
        bed.ok(&["cp", "v:/v/f", bed.path("back").to_str().unwrap()]);
        assert_eq!(read(bed.path("back")), "in the volume");
        bed.ok(&["rm", "-f", "v"]);
    });
}

#[test]
fn an_error_names_the_file_that_the_user_named_and_leaves_no_other() {
    once(|bed| {
        bed.ok(&["create", "--name", "c", "busybox", "true"]);
        fs::create_dir(bed.path("out")).unwrap();
        bed.file("out/file", b"");
        let path = |name: &str| bed.path(name).to_str().unwrap().to_owned();
        for missing in ["nosuch/x", "out/nosuch/x", "out/file/x", "out"] {
            let missing = path(missing);
            for arguments in [["export", "-o", &missing, "c"], ["save", "-o", &missing, "busybox"]] {
                let text = bed.fails(1, &arguments);
                assert!(text.starts_with(&format!("mica: write '{missing}': ")), "{text}");
                assert!(!text.contains(".mica-"), "{text}");
            }
        }
        let text = bed.fails(1, &["cp", "c:/etc/passwd", &path("nosuch/x")]);
        let (file, directory) = (path("nosuch/x"), path("nosuch"));
        assert_eq!(text, format!("mica: copy to '{file}': no such path: {directory}\n"));
        let text = bed.fails(1, &["cp", "c:/etc/passwd", "/proc/nosuch"]);
        assert!(text.starts_with("mica: copy to '/proc/nosuch': "), "{text}");
        assert_eq!(fs::read_dir(bed.path("out")).unwrap().count(), 1);
    });
}
