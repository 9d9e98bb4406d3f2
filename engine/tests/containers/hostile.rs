//! What images and containers try with the host, each attempt once seen in another engine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use mica_archive::Kind;

use crate::bed::{Bed, each, once};

fn link(target: &str) -> Kind {
    Kind::Symlink(target.as_bytes().to_vec())
}

/// A directory of the host with one file that is nobody's business.
fn secrets(bed: &Bed) -> (PathBuf, String) {
    let directory = bed.path("secrets");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("secret"), "the host's").unwrap();
    fs::set_permissions(directory.join("secret"), PermissionsExt::from_mode(0o640)).unwrap();
    let text = directory.to_str().unwrap().to_owned();
    (directory, text)
}

fn assert_untouched(bed: &Bed) {
    let (directory, secret) = (bed.path("secrets"), bed.path("secrets/secret"));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the host's");
    let meta = fs::metadata(&secret).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 0, 0));
}

/// CVE-2014-9357, CVE-2019-14271, CVE-2026-41567: a decompressor or another helper was found where the image put one.
#[test]
fn no_program_is_started_for_what_an_image_or_a_container_holds() {
    once(|bed| {
        let ok = |arguments: &[&str]| {
            let answer = bed.command(arguments).env("PATH", "").output().unwrap();
            assert!(answer.status.success(), "{arguments:?}: {answer:?}");
        };
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let packed = Command::new(program).arg("-c").arg(bed.path("busybox.tar")).output();
            let Ok(packed) = packed else {
                eprintln!("skip: engine/unpack-{program}: there is no {program} to pack with");
                continue;
            };
            ok(&["import", &bed.file("packed", &packed.stdout), &format!("packed:{program}")]);
        }
        let path = |name: &str| bed.path(name).to_str().unwrap().to_owned();
        ok(&["save", "-o", &path("saved.tar"), "busybox"]);
        ok(&["load", "-i", &path("saved.tar")]);
        ok(&["run", "--name", "c", "busybox", "/bin/touch", "/new"]);
        ok(&["cp", "c:/etc", &path("etc")]);
        ok(&["cp", &path("etc"), "c:/tmp"]);
        ok(&["export", "-o", &path("c.tar"), "c"]);
        ok(&["diff", "c"]);
        ok(&["commit", "c", "packed:committed"]);
    });
}

#[test]
fn a_user_is_looked_up_in_whatever_the_image_calls_its_lists_of_users_without_harm() {
    once(|bed| {
        let (_, outside) = secrets(bed);
        fs::write(bed.path("secrets/secret"), "the host's").unwrap();
        let mut large = vec![b'x'; 60 << 20];
        large.extend(b"\nweb:x:33:34::/:/bin/sh\n");
        let lists = [
            (Kind::Fifo, &b""[..]),
            (link(&format!("{outside}/secret")), b""),
            (link("/proc/self/environ"), b""),
            (link("passwd"), b""),
            (Kind::Directory, b""),
            (Kind::File { size: large.len() as u64, sparse: None }, &large),
        ];
        for (kind, content) in lists {
            let members = ["etc/passwd", "etc/group"].map(|path| (path, kind.clone(), content));
            bed.import("lists", &[&[("etc/", Kind::Directory, &b""[..])], &members[..]].concat());
            let ids = |user: &[&str]| {
                bed.run(
                    &[
                        &["run", "--rm"],
                        user,
                        &["lists", "/bin/busybox", "grep", "^Uid", "/proc/self/status"],
                    ]
                    .concat(),
                )
            };
            assert_eq!(ids(&[]).out, "Uid:\t0\t0\t0\t0\n", "{kind:?}");
            assert_eq!(ids(&["-u", "77:78"]).out, "Uid:\t77\t77\t77\t77\n", "{kind:?}");
            let answer = ids(&["-u", "web"]);
            assert!(answer.err.contains("unable to find user web"), "{kind:?}: {answer:?}");
            bed.ok(&["rmi", "lists"]);
        }
        assert_untouched(bed);
    });
}

/// What is mounted or made at these places of a container goes into its root, or the container does not start
/// (CVE-2019-19921, CVE-2021-30465, CVE-2023-27561).
#[test]
fn links_of_an_image_where_the_engine_mounts_lead_nowhere_on_the_host() {
    each(|bed| {
        let (_, outside) = secrets(bed);
        let secret = format!("{outside}/secret");
        for (path, target) in [
            ("dev", &outside),
            ("proc", &outside),
            ("sys", &outside),
            ("etc", &outside),
            ("etc/hosts", &secret),
            ("etc/resolv.conf", &secret),
            ("dev/null", &secret),
            ("dev/pts", &outside),
        ] {
            let parent = path.split_once('/').map(|(parent, _)| (parent, Kind::Directory, &b""[..]));
            let members: Vec<_> = parent.into_iter().chain([(path, link(target), &b""[..])]).collect();
            bed.import("linked", &members);
            let script = "busybox cat /dev/null; busybox cat /etc/hosts > /dev/null; echo x > /etc/new";
            let answer = bed.run(&["run", "--name", "c", "linked", "sh", "-c", script]);
            // The kernel's own file systems are mounted at no place but theirs.
            let is_refused = matches!(path, "proc" | "sys");
            assert_eq!(answer.status, Some(if is_refused { 125 } else { 0 }), "{path}: {answer:?}");
            assert!(!answer.out.contains("the host's"), "{path}: {answer:?}");
            bed.ok(&["rm", "c"]);
            bed.ok(&["rmi", "linked"]);
            assert_untouched(bed);
        }
    });
}

/// CVE-2022-23648 and its kind.
#[test]
fn a_volume_behind_a_link_of_the_image_is_in_the_container_and_shows_nothing_of_the_host() {
    each(|bed| {
        let (_, outside) = secrets(bed);
        bed.import("linked", &[("link", link(&outside), b"")]);
        let shared = bed.path("shared");
        fs::create_dir(&shared).unwrap();
        let list = ["linked", "/bin/busybox", "ls", "-A", "/link/"];
        for volume in ["named:/link".to_owned(), "/link".to_owned(), format!("{}:/link", shared.display())] {
            let answer = bed.run(&[&["run", "--rm", "-v", &volume], &list[..]].concat());
            assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{volume}: {answer:?}");
        }
        let below = format!("{}:/link/below", shared.display());
        let script = "echo x > /link/below/file";
        bed.ok(&["run", "--rm", "-v", &below, "linked", "sh", "-c", script]);
        assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "x\n");
        assert_untouched(bed);
    });
}

/// CVE-2021-41089.
#[test]
fn a_copy_into_a_container_changes_no_mode_or_owner_on_the_host() {
    each(|bed| {
        let (_, outside) = secrets(bed);
        bed.import(
            "linked",
            &[("link", link(&outside), b""), ("file", link(&format!("{outside}/secret")), b"")],
        );
        bed.ok(&["create", "--name", "c", "linked", "/bin/busybox", "sleep", "100"]);
        let given = bed.path("given");
        fs::create_dir(&given).unwrap();
        fs::write(given.join("secret"), "the image's").unwrap();
        fs::set_permissions(given.join("secret"), PermissionsExt::from_mode(0o4777)).unwrap();
        let given = given.to_str().unwrap();
        for is_live in [false, true] {
            for to in ["c:/link", "c:/link/", "c:/link/secret", "c:/file"] {
                for from in [given.to_owned(), format!("{given}/."), format!("{given}/secret")] {
                    // Whether it is there in the container's eyes decides whether it is done.
                    bed.run(&["cp", "-a", &from, to]);
                    assert_untouched(bed);
                }
            }
            if !is_live {
                bed.ok(&["start", "c"]);
            }
        }
    });
}

/// CVE-2021-41091, CVE-2021-41103, CVE-2024-25621.
#[test]
fn nobody_but_root_gets_at_layers_containers_and_volumes() {
    each(|bed| {
        bed.ok(&["run", "--name", "c", "-v", "data:/data", "busybox", "true"]);
        let root = bed.root();
        let places = [
            root.clone(),
            root.join("storage"),
            root.join("storage").join(&bed.driver),
            root.join("containers"),
            root.join("volumes"),
            root.join("tmp"),
        ];
        for place in places {
            assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o700, "{}", place.display());
        }
    });
}
