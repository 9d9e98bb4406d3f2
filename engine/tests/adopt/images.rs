//! Images of an old Docker: they come with their ids, their names and their bytes.

use std::fs;

use mica_archive::{Entry, Kind};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::archives::{entry, tar, tar_of};
use crate::docker::{DRIVERS, OldDocker, busybox};
use crate::home::Home;

/// Deletions of every kind: of a file, of all in a directory, in a base layer of what nobody has; with the modes that tools
/// give them.
fn tarballs() -> Vec<Vec<u8>> {
    let empty = || Kind::File { size: 0, sparse: None };
    let file = |path: &str, mode: u32| Entry { mode, ..entry(path, empty()) };
    let base = tar_of(&[
        (entry("./", Kind::Directory), &b""[..]),
        (entry("./a/", Kind::Directory), b""),
        (entry("./a/.wh.never", empty()), b""),
        (entry("./a/x", Kind::File { size: 3, sparse: None }), b"one"),
        (entry("./a/y", Kind::Hardlink(b"./a/x".to_vec())), b""),
        (entry("./d/", Kind::Directory), b""),
        (entry("./d/old", empty()), b""),
        (entry("./link", Kind::Symlink(b"/a/x".to_vec())), b""),
    ]);
    let upper = tar_of(&[
        (entry("a/", Kind::Directory), &b""[..]),
        (file("a/.wh.x", 0o600), b""),
        (file("a/.wh.y", 0), b""),
        (entry("d/", Kind::Directory), b""),
        (file("d/.wh..wh..opq", 0o444), b""),
        (entry("d/new", Kind::File { size: 4, sparse: None }), b"new\n"),
    ]);
    vec![base, upper]
}

#[test]
fn an_image_comes_with_its_id_its_names_and_every_byte() {
    for old_driver in DRIVERS {
        let mut docker = OldDocker::new(old_driver);
        let image = docker.add(&["app:1", "registry.example:5000/team/app:2"], &tarballs());
        let digest = format!("app@{}", mica_archive::Digest::of(b"a manifest"));
        docker.tag(&digest, &image.id);
        for driver in Home::new().drivers() {
            let home = Home::new();
            let answer = home.ok(&["--storage-driver", &driver, "storage", "adopt", docker.place()]);
            assert_eq!(
                answer,
                format!(
                    "Adopted image: app:1\nAdopted image: {digest}\nAdopted image: registry.example:5000/team/app:2\n"
                )
            );
            for name in ["app:1", "registry.example:5000/team/app:2", &digest] {
                let id = home.ok(&["inspect", "-f", "{{.Id}}", name]);
                assert_eq!(id.trim(), image.id.to_string(), "{name}");
            }
            home.assert_consistent();
            let saved = home.dir.path().join("saved.tar");
            home.ok(&["save", "-o", saved.to_str().unwrap(), "app:1"]);
            let saved = fs::read(&saved).unwrap();
            for tarball in tarballs() {
                assert!(
                    saved.windows(tarball.len()).any(|part| part == tarball),
                    "{old_driver:?} on {driver}"
                );
            }
        }
    }
}

#[test]
fn a_digest_is_a_name_that_goes_with_the_last_tag_of_its_repository() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1", "app:2"], &[tar(&[("a", b"1")])]);
    let pulled = docker.add(&[], &[tar(&[("b", b"1")])]);
    let digest = mica_archive::Digest::of(b"a manifest");
    docker.tag(&format!("app@{digest}"), &image.id);
    docker.tag(&format!("other@{digest}"), &pulled.id);
    let home = Home::new();
    home.ok(&["storage", "adopt", docker.place()]);
    let listed = home.ok(&["images", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"]);
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    let line = |start: &str| format!("{start} {digest}");
    assert_eq!(lines, [line("app 1"), line("app 2"), line("other <none>")]);
    let found: serde_json::Value = serde_json::from_str(&home.ok(&["inspect", "app:1"])).unwrap();
    assert_eq!(found[0]["RepoTags"], serde_json::json!(["app:1", "app:2"]));
    assert_eq!(found[0]["RepoDigests"], serde_json::json!([format!("app@{digest}")]));
    // An archive has no place for a digest.
    let saved = home.dir.path().join("saved.tar");
    home.ok(&["save", "-o", saved.to_str().unwrap(), &format!("other@{digest}")]);
    assert!(Home::new().ok(&["load", "-i", saved.to_str().unwrap()]).starts_with("Loaded image ID: "));
    assert_eq!(home.ok(&["rmi", "app:2"]), "Untagged: app:2\n");
    let text = home.ok(&["rmi", "app:1"]);
    assert_eq!(text, format!("Untagged: app@{digest}\nUntagged: app:1\nDeleted: {}\n", image.id));
    home.ok(&["rmi", &pulled.id.hex()]);
    home.assert_empty();
}

#[test]
fn a_second_time_takes_nothing_twice_and_takes_what_is_new() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let shared = tar(&[("shared", b"1")]);
    docker.add(&["one:1"], &[shared.clone(), tar(&[("a", b"1")])]);
    let home = Home::new();
    let adopt = ["storage", "adopt", docker.place()];
    assert_eq!(home.ok(&adopt), "Adopted image: one:1\n");
    assert_eq!(home.ok(&adopt), "Already here: image one:1\n");
    docker.add(&["two:1"], &[shared, tar(&[("b", b"1")])]);
    let adopt = ["storage", "adopt", docker.place()];
    assert_eq!(home.ok(&adopt), "Already here: image one:1\nAdopted image: two:1\n");
    assert_eq!(home.names("layers").len(), 3, "the layer that both have is one");
    home.assert_consistent();
}

#[test]
fn what_others_were_built_from_stays_unless_it_has_a_name_or_is_asked_for() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let step = docker.add(&[], &[tar(&[("a", b"1")])]);
    let built = docker.add(&["built:1"], &[tar(&[("a", b"1")]), tar(&[("b", b"1")])]);
    let dangling = docker.add(&[], &[tar(&[("c", b"1")])]);
    docker.set_parent(&built.id, &step.id);
    let home = Home::new();
    let answer = home.ok(&["storage", "adopt", docker.place()]);
    assert_eq!(answer, format!("Adopted image: built:1\nAdopted image: {}\n", &dangling.id.hex()[..12]));
    let answer = home.ok(&["storage", "adopt", "--image", &step.id.hex()[..20], docker.place()]);
    assert_eq!(answer, format!("Adopted image: {}\n", &step.id.hex()[..12]));
    home.assert_consistent();
}

#[test]
fn a_name_that_means_another_image_here_goes_on_to() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let image = docker.add(&["app:1"], &[tar(&[("a", b"old")])]);
    let home = Home::new();
    let own = home.import("app:1", &tar(&[("a", b"own")]));
    let answer = home.run(&["storage", "adopt", docker.place()]);
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(
        answer.err.contains(&format!(
            "'app:1' means another image here, and goes on to; the old one is {}",
            image.id
        ))
    );
    assert_eq!(home.ok(&["inspect", "-f", "{{.Id}}", "app:1"]).trim(), own);
    assert_eq!(home.ok(&["inspect", "-f", "{{.Id}}", &image.id.hex()]).trim(), image.id.to_string());
}

#[test]
fn a_dry_run_lists_and_takes_nothing() {
    let mut docker = OldDocker::new(DRIVERS[1]);
    let image = docker.add(&["app:1"], &[busybox()]);
    let container = docker.create("web", &image, &["sh"]);
    container.put("srv/big", &"x".repeat(5000));
    let home = Home::new();
    let answer = home.ok(&["storage", "adopt", "--dry-run", docker.place()]);
    let rows: Vec<Vec<&str>> = answer.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..3], ["image", "app:1", &image.id.hex()[..12]], "{answer}");
    assert_eq!(
        rows[2],
        ["container", "web", &container.id[..12], "5.00kB", "to", "be", "adopted"],
        "{answer}"
    );
    assert!(answer.ends_with("MB\n") && answer.contains("\n1 image and 1 container, "), "{answer}");
    home.assert_empty();
    home.ok(&["storage", "adopt", docker.place()]);
    let answer = home.ok(&["storage", "adopt", "--dry-run", docker.place()]);
    assert_eq!(answer.matches("here already").count(), 2, "{answer}");
    assert!(answer.ends_with("\n0 images and 0 containers, 0B\n"), "{answer}");
}

#[test]
fn only_what_is_asked_for_comes() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let one = docker.add(&["one:1"], &[busybox()]);
    let two = docker.add(&["two:1"], &[busybox(), tar(&[("a", b"1")])]);
    docker.create("first", &one, &["sh"]);
    let second = docker.create("second", &two, &["sh"]);
    let home = Home::new();
    let adopt = |arguments: &[&str]| home.ok(&[&["storage", "adopt", docker.place()], arguments].concat());
    assert_eq!(
        adopt(&["--container", &second.id[..10]]),
        "Adopted image: two:1\nAdopted container: second\n"
    );
    assert_eq!(adopt(&["--image", "one:1"]), "Adopted image: one:1\n");
    assert_eq!(adopt(&["--container", "/first"]), "Already here: image one:1\nAdopted container: first\n");
    for (arguments, missing) in
        [(["--image", "none"], "no such image in "), (["--container", "none"], "no such container in ")]
    {
        let text = home.refused(&[&["storage", "adopt", docker.place()], &arguments[..]].concat());
        assert!(text.contains(missing) && text.ends_with(": none\n"), "{text}");
    }
}

/// A file system that writes down every time of reading.
struct Strict(tempfile::TempDir);

impl Strict {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::STRICTATIME, c"").unwrap();
        Self(dir)
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn the_old_root_stays_as_it_is_to_the_time_of_reading() {
    for driver in DRIVERS {
        let disk = Strict::mount();
        let mut docker = OldDocker::in_directory(driver, tempfile::tempdir_in(disk.0.path()).unwrap());
        let image = docker.add(&["app:1"], &[busybox(), tar(&[("srv/", b""), ("srv/x", b"1")])]);
        let container = docker.create("web", &image, &["echo", "hi"]);
        container.put("srv/new", "1");
        let before = docker.listing();
        let home = Home::new();
        home.ok(&["storage", "adopt", "--dry-run", docker.place()]);
        home.ok(&["storage", "adopt", docker.place()]);
        home.ok(&["start", "-a", "web"]);
        assert_eq!(docker.listing(), before);
        fs::read(container.changes.join("srv/new")).unwrap();
        assert_ne!(docker.listing(), before, "the listing shows that something was read");
        home.ok(&["rm", "web"]);
    }
}

/// Nobody mounts `/var/lib/docker/overlay2` elsewhere for nothing.
#[test]
fn directories_of_the_root_may_be_file_systems_of_their_own() {
    let disk = Strict::mount();
    let mut docker = OldDocker::new(DRIVERS[1]);
    let place = docker.path().join("overlay2");
    rustix::mount::mount_bind(disk.0.path(), &place).unwrap();
    docker.add(&["app:1"], &[tar(&[("a", b"1")])]);
    let home = Home::new();
    let answer = home.run(&["storage", "adopt", docker.place()]);
    unmount(&place, UnmountFlags::DETACH).unwrap();
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), "Adopted image: app:1\n"), "{answer:?}");
    home.assert_consistent();
}
