//! Layers whose tarball cannot be made again as it came.

use std::fs;

use mica_archive::Digest;

use crate::archives::tar;
use crate::docker::{DRIVERS, OldDocker, OldImage, busybox};
use crate::home::Home;

fn layers() -> Vec<Vec<u8>> {
    vec![busybox(), tar(&[("srv/", b""), ("srv/.wh.old", b""), ("srv/x", b"as it came\n")])]
}

/// What may have happened to the upper layer.
type Damage = (&'static str, fn(&OldImage), &'static str);

const DAMAGES: [Damage; 4] = [
    (
        "a file that was written to",
        |image| fs::write(image.directories[1].join("srv/x"), "otherwise!\n").unwrap(),
        "its file 'srv/x' was changed since it came",
    ),
    (
        "a file that is gone",
        |image| fs::remove_file(image.directories[1].join("srv/x")).unwrap(),
        "its file 'srv/x' cannot be read: No such file",
    ),
    (
        "a record that is lost",
        |image| fs::remove_file(image.records[1].join("tar-split.json.gz")).unwrap(),
        "Docker kept no tar-split of it",
    ),
    (
        "the record of another layer",
        |image| {
            let other = fs::read(image.records[0].join("tar-split.json.gz")).unwrap();
            fs::write(image.records[1].join("tar-split.json.gz"), other).unwrap();
        },
        "its file 'bin/busybox' cannot be read",
    ),
];

#[test]
fn such_a_layer_is_refused_with_its_name_and_the_others_come() {
    for driver in DRIVERS {
        for (what, damage, why) in DAMAGES {
            let mut docker = OldDocker::new(driver);
            let image = docker.add(&["app:1"], &layers());
            docker.add(&["base:1"], &layers()[..1]);
            docker.create("web", &image, &["cat", "/srv/x"]);
            damage(&image);
            let home = Home::new();
            let answer = home.run(&["storage", "adopt", docker.place()]);
            assert_eq!(
                (answer.status, answer.out.as_str()),
                (Some(1), "Adopted image: base:1\n"),
                "{answer:?}"
            );
            let layer = Digest::of(&layers()[1]);
            assert!(
                answer.err.contains(&format!("layer {layer}")) && answer.err.contains(why),
                "{what}: {answer:?}"
            );
            assert!(answer.err.contains("--accept-changed"), "{what}: {answer:?}");
            assert!(answer.err.contains("container web was not adopted: its image: "), "{what}: {answer:?}");
            home.assert_consistent();
        }
    }
}

/// An image is named by what it is: other content is another layer, and makes another image.
#[test]
fn accepted_as_it_is_it_has_a_name_of_its_own() {
    for driver in DRIVERS {
        let mut docker = OldDocker::new(driver);
        let image = docker.add(&["app:1"], &layers());
        docker.tag(&format!("app@{}", Digest::of(b"a manifest")), &image.id);
        docker.create("web", &image, &["sh", "-c", "cat /srv/x; ls /srv"]);
        (DAMAGES[0].1)(&image);
        let home = Home::new();
        let adopt = ["storage", "adopt", "--accept-changed", docker.place()];
        let answer = home.run(&adopt);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        let id = home.ok(&["inspect", "-f", "{{.Id}}", "app:1"]);
        assert_ne!(id.trim(), image.id.to_string());
        assert!(
            answer.err.contains(&format!("image {} has another id now: {}", image.id, id.trim())),
            "{answer:?}"
        );
        assert!(answer.err.contains("is taken as it is now, sha256:"), "{answer:?}");
        let tags = fs::read_to_string(home.root().join("tags.json")).unwrap();
        assert!(!tags.contains('@'), "the digest was that of another image: {tags}");
        home.assert_consistent();
        assert_eq!(home.ok(&["start", "-a", "web"]), "otherwise!\none\ntwo\nx\n");
        let answer = home.run(&adopt);
        assert!(answer.out.starts_with("Already here: image app:1\n"), "{answer:?}");
        assert_eq!(home.names("images").len(), 1);
        home.ok(&["rm", "web"]);
    }
}

#[test]
fn what_can_be_made_again_keeps_its_id_though_changes_are_accepted() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let image = docker.add(&["app:1"], &layers());
    let home = Home::new();
    let answer = home.run(&["storage", "adopt", "--accept-changed", docker.place()]);
    assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""));
    assert_eq!(home.ok(&["inspect", "-f", "{{.Id}}", "app:1"]).trim(), image.id.to_string());
}
