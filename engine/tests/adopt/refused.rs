//! What cannot be taken is named with the reason, and the rest comes all the same.

use std::fs::{self, File};
use std::os::unix::fs::{chown, symlink};

use mica_core::mount::Overlay;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::Mounter;
use rustix::fs::{XattrFlags, setxattr};
use serde_json::json;

use crate::archives::tar;
use crate::docker::{DRIVERS, Driver, OldDocker, busybox};
use crate::home::Home;

/// Adopts all, of which something fails, and returns what is said of it.
fn fails(home: &Home, docker: &OldDocker) -> String {
    let answer = home.run(&["storage", "adopt", docker.place()]);
    assert_eq!(answer.status, Some(1), "{answer:?}");
    assert!(answer.err.lines().all(|line| line.starts_with("mica: ")), "{answer:?}");
    assert!(!answer.err.trim_end_matches('\n').contains(|c: char| c.is_control() && c != '\n'), "{answer:?}");
    home.assert_consistent();
    answer.err
}

#[test]
fn marks_of_overlayfs_that_are_not_understood_are_refused() {
    let mut docker = OldDocker::new(Driver::Overlay2);
    let image = docker.add(&["app:1"], &[busybox()]);
    for (name, mark, value) in [
        ("moved", "trusted.overlay.redirect", &b"/srv"[..]),
        ("bare", "trusted.overlay.metacopy", b""),
        ("other", "trusted.overlay.opaque", b"x"),
        ("unknown", "trusted.overlay.future", b"y"),
        ("rootless", "user.overlay.opaque", b"y"),
    ] {
        let container = docker.create(name, &image, &["sh"]);
        container.put("etc/file", "1");
        let place = if mark.ends_with("metacopy") { "etc/file" } else { "etc" };
        setxattr(container.changes.join(place), mark, value, XattrFlags::empty()).unwrap();
    }
    docker.create("fine", &image, &["sh"]);
    let home = Home::new();
    let text = fails(&home, &docker);
    for (name, why) in [
        ("moved", "redirect_dir=on"),
        (
            "bare",
            "its file 'file' cannot be taken: overlayfs left its content in a layer below (metacopy=on)",
        ),
        ("other", "overlayfs marked it with 'opaque'"),
        ("unknown", "overlayfs marked it with 'future'"),
        ("rootless", "without privileges"),
    ] {
        let line = text.lines().find(|line| line.contains(&format!("container {name} was not adopted: ")));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {text}");
    }
    assert_eq!(home.ok(&["ps", "-a", "--format", "{{.Names}}"]), "fine\n");
}

#[test]
fn directories_that_aufs_renamed_are_refused() {
    let mut docker = OldDocker::new(Driver::Aufs);
    let image = docker.add(&["app:1"], &[busybox()]);
    docker.create("web", &image, &["sh"]).put(".wh..wh..dr.1", "");
    assert!(fails(&Home::new(), &docker).contains("a renamed directory there (dirren)"));
}

#[test]
fn containers_of_shifted_users_are_refused_and_their_images_come() {
    let mut docker = OldDocker::new(Driver::Overlay2);
    let image = docker.add(&["app:1"], &[busybox()]);
    docker.create("web", &image, &["sh"]);
    chown(docker.path().join("overlay2"), Some(100_000), Some(100_000)).unwrap();
    let home = Home::new();
    let text = fails(&home, &docker);
    assert!(text.contains("belongs to 100000:100000") && text.contains("userns-remap"), "{text}");
    assert_eq!(home.ok(&["images", "--format", "{{.Repository}}"]), "app\n");
}

#[test]
fn damaged_records_are_named_and_lead_nowhere() {
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("a"), "secret").unwrap();
    for driver in DRIVERS {
        let mut docker = OldDocker::new(driver);
        let mut damage = |name: &str| docker.add(&[name], &[tar(&[("a", name.as_bytes())])]);
        let outside = damage("outside:1");
        fs::write(outside.records[0].join("cache-id"), format!("../../../../..{}", secret.path().display()))
            .unwrap();
        let linked = damage("linked:1");
        fs::remove_dir_all(&linked.directories[0]).unwrap();
        symlink(secret.path(), &linked.directories[0]).unwrap();
        let gone = damage("gone:1");
        fs::remove_dir_all(&gone.records[0]).unwrap();
        let another = damage("another:1");
        fs::write(another.records[0].join("diff"), outside.id.to_string()).unwrap();
        let pipe = damage("pipe:1");
        let split = pipe.records[0].join("tar-split.json.gz");
        fs::remove_file(&split).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &split, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let text_of = damage("config:1");
        let config = docker.path().join("image").join(format!("{driver:?}").to_lowercase());
        let config = config.join("imagedb/content/sha256").join(text_of.id.hex());
        fs::write(config, "{}").unwrap();
        docker.add(&["whole:1"], &[tar(&[("a", b"1")])]);
        docker.write(&docker.path().join("containers/abc/config.v2.json"), "[");
        docker.tag("lost:1", &mica_archive::Digest::of(b"an image that is not there"));
        let home = Home::new();
        let text = fails(&home, &docker);
        for (name, why) in [
            ("image outside:1", "its record does not say where it is"),
            ("image linked:1", "a symbolic link is on the way"),
            ("image gone:1", "Docker has no record of it"),
            ("image another:1", "Docker has it as 'sha256:"),
            ("image pipe:1", "tar-split.json.gz': it is no regular file\n"),
            ("image config:1", "is damaged: its digest is"),
            ("image lost:1", "is not there"),
            ("container abc", "its config cannot be read"),
        ] {
            let line = text.lines().find(|line| line.contains(&format!("{name} was not adopted: ")));
            assert!(line.is_some_and(|line| format!("{line}\n").contains(why)), "{name}: {text}");
        }
        assert_eq!(home.ok(&["images", "--format", "{{.Repository}}"]), "whole\n");
    }
}

#[test]
fn a_container_that_docker_cannot_vouch_for_is_refused() {
    let mut docker = OldDocker::new(Driver::Overlay2);
    let image = docker.add(&["app:1"], &[busybox()]);
    let other = docker.add(&["app:2"], &[busybox(), tar(&[("a", b"1")])]);
    let set = |name: &str, docker: &mut OldDocker, key: &str, value: serde_json::Value| {
        docker.create(name, &image, &["sh"]).configure(|config| config[key] = value);
    };
    set("dead", &mut docker, "State", json!({ "Dead": true }));
    set("btrfs", &mut docker, "Driver", json!("btrfs"));
    set("standing", &mut docker, "Image", json!(other.id));
    set("nameless", &mut docker, "Name", json!("/../../x"));
    set("quiet", &mut docker, "Config", json!({ "Cmd": null }));
    let home = Home::new();
    home.import("mine", &busybox());
    docker.create("taken", &image, &["sh"]);
    home.ok(&["create", "--name", "taken", "mine", "sh"]);
    let text = fails(&home, &docker);
    for why in [
        "container dead was not adopted: Docker was removing it",
        "container btrfs was not adopted: its files are kept by storage driver 'btrfs'",
        "container standing was not adopted: its layer does not stand on its image",
        "invalid container name (../../x)",
        "container taken was not adopted: conflict: the container name '/taken' is already in use",
    ] {
        assert!(text.contains(why), "{why}: {text}");
    }
}

#[test]
fn a_root_that_a_docker_works_in_is_left_alone() {
    let mut docker = OldDocker::new(Driver::Overlay2);
    docker.add(&["app:1"], &[tar(&[("a", b"1")])]);
    let home = Home::new();
    let adopt = ["storage", "adopt", docker.place()];
    // As dockerd holds its database of volumes.
    let database = File::open(docker.path().join("volumes/metadata.db")).unwrap();
    database.lock().unwrap();
    let text = home.refused(&adopt);
    assert!(text.contains("a Docker works in") && text.contains("--force"), "{text}");
    home.assert_empty();
    let answer = home.run(&[&adopt[..], &["--force"]].concat());
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), "Adopted image: app:1\n"));
    assert!(answer.err.starts_with("mica: warning: a Docker works in"), "{answer:?}");
    database.unlock().unwrap();
    home.ok(&adopt);
    // A container of it whose files are mounted.
    let at = docker.path().join("overlay2/merged");
    fs::create_dir(&at).unwrap();
    let lowers = vec![docker.path().join("image"), docker.path().join("containers")];
    let overlay = Overlay { lowers, ..Overlay::default() };
    let mounts = Mounts { specs: vec![MountSpec::Overlay(overlay)], whiteouts: WhiteoutForm::Merged };
    let tree = Mounter::new(home.dir.path()).open(&mounts).unwrap().attach(&at).unwrap();
    let text = home.refused(&adopt);
    assert!(text.contains("runs: its files are mounted at"), "{text}");
    tree.close().unwrap();
}

#[test]
fn what_is_no_root_of_docker_is_refused_with_what_would_work() {
    let home = Home::new();
    let place = tempfile::tempdir().unwrap();
    let refused = |place: &str| home.refused(&["storage", "adopt", place]);
    let dir = place.path().to_str().unwrap();
    assert!(refused(dir).contains("is no data root of Docker's"));
    fs::create_dir(place.path().join("graph")).unwrap();
    assert!(refused(dir).contains("of a Docker before 1.10"));
    fs::create_dir_all(place.path().join("image/btrfs")).unwrap();
    assert!(refused(dir).contains("kept by storage driver btrfs") && refused(dir).contains("docker save"));
    assert!(refused(&format!("{dir}/none")).contains("No such file"));
    assert!(refused(home.root().to_str().unwrap()).contains("are in each other"));
    assert!(refused("/").contains("are in each other"));
    assert!(refused("/bin/busybox").contains("is no directory"));
}
