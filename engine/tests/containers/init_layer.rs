//! What every container finds in its image, wherever the image's links put it, is in no diff and no commit.

use std::process::Command;

use mica_archive::Kind;
use serde_json::Value;

use crate::bed::{Bed, each_runtime};

/// The names in the tarball of an image's last layer.
fn last_layer(bed: &Bed, image: &str) -> String {
    let saved = bed.path("saved.tar");
    bed.ok(&["save", "-o", saved.to_str().unwrap(), image]);
    let tar = |script: &str, name: &str| {
        let output =
            Command::new("sh").args(["-c", script, "sh", name]).current_dir(saved.parent().unwrap()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let manifest: Value = serde_json::from_str(&tar("tar -xOf saved.tar \"$1\"", "manifest.json")).unwrap();
    let layer = manifest[0]["Layers"].as_array().unwrap().last().unwrap();
    tar("tar -xOf saved.tar \"$1\" | tar -t", layer.as_str().unwrap())
}

#[test]
fn what_is_mounted_behind_links_of_the_image_is_no_change() {
    let layouts: [&[(&str, &str)]; 3] = [
        &[("etc", "/")],
        &[("etc", "usr/etc"), ("dev", "devices")],
        &[("etc/resolv.conf", "../run/resolve/stub"), ("etc/hosts", "/hosts")],
    ];
    each_runtime(|bed| {
        for links in layouts {
            let link = |(path, target): &(&'static str, &str)| {
                (*path, Kind::Symlink(target.as_bytes().to_vec()), &b""[..])
            };
            bed.import("linked", &links.iter().map(link).collect::<Vec<_>>());
            let script = "echo mine > /own && echo more >> /etc/hosts && busybox test -s /etc/hostname";
            bed.ok(&["run", "--name", "c", "linked", "sh", "-c", script]);
            assert_eq!(bed.ok(&["diff", "c"]), "A /own\n", "{links:?}");
            bed.ok(&["commit", "c", "committed"]);
            bed.ok(&["rm", "c"]);
            assert_eq!(last_layer(bed, "committed"), "own\n", "{links:?}");
            bed.ok(&["rmi", "committed", "linked"]);
        }
    });
}
