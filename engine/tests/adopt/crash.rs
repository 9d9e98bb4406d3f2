//! An adoption that is killed leaves nothing half, and the next one ends what it began.

use crate::archives::tar;
use crate::docker::{DRIVERS, OldDocker, busybox};
use crate::home::Home;

/// The moments of taking an image and a container, in order.
const POINTS: [&str; 18] = [
    "layer.created",
    "layer.filled",
    "layer.committed",
    "layers.synced",
    "layer.staged",
    "layer.recorded",
    "adopt.provided",
    "image.staged",
    "image.recorded",
    "image.tagged",
    "transaction.working",
    "settle.condemned",
    "init.committed",
    "receive.layer",
    "receive.filled",
    "create.named",
    "create.volumes",
    "create.placed",
];

#[test]
fn it_is_all_or_nothing_at_every_moment() {
    let mut docker = OldDocker::new(DRIVERS[0]);
    let image = docker.add(&["app:1"], &[busybox(), tar(&[("srv/", b""), ("srv/.wh.old", b"")])]);
    let container = docker.create("web", &image, &["cat", "/srv/mine"]);
    container.put("srv/mine", "mine\n");
    let before = docker.listing();
    let drivers = Home::new().drivers();
    for (index, driver) in drivers.iter().enumerate() {
        // A moment of each kind is enough for the others.
        for point in POINTS.into_iter().step_by(if index == 0 { 1 } else { 5 }) {
            let home = Home::new();
            let adopt = ["--storage-driver", driver, "storage", "adopt", docker.place()];
            let answer = home.with_failpoint(point, &adopt);
            assert_eq!(answer.status, None, "killed at {point}: {answer:?}");
            home.assert_consistent();
            let answer = home.with_failpoint(&format!("{point}=error"), &adopt);
            assert!(matches!(answer.status, Some(0 | 1)), "{point}: {answer:?}");
            home.assert_consistent();
            home.ok(&adopt);
            home.assert_consistent();
            assert_eq!(home.ok(&["start", "-a", "web"]), "mine\n", "{point}");
            assert_eq!(home.ok(&["images", "-q", "--no-trunc"]).trim(), image.id.to_string());
            home.ok(&["rm", "web"]);
            home.ok(&["rmi", "app:1"]);
            home.assert_empty();
        }
    }
    assert_eq!(docker.listing(), before);
}
