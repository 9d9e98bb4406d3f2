//! What every container finds in its image, wherever the image's links put it, is in no diff and no commit.

use std::process::Command;

use mica_archive::writer::Writer;
use mica_archive::{Entry, Kind, Time};
use serde_json::Value;

use crate::bed::{Bed, each_runtime};

/// A root file system of the host's static busybox with these links in it.
fn image(bed: &Bed, links: &[(&str, &str)]) {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = Writer::new(Vec::new());
    let mut put = |path: &str, kind: Kind, content: &[u8]| {
        let (mtime, xattrs) = (Time { seconds: 1_700_000_000, nanoseconds: 0 }, Vec::new());
        let entry = Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime, xattrs };
        tar.append(&entry, &mut &content[..]).unwrap();
    };
    put("bin/", Kind::Directory, b"");
    put("bin/busybox", Kind::File { size: program.len() as u64, sparse: None }, &program);
    for (path, target) in links.iter().chain(&[("bin/sh", "busybox")]) {
        put(path, Kind::Symlink(target.as_bytes().to_vec()), b"");
    }
    let file = bed.file("linked.tar", &tar.finish().unwrap());
    bed.ok(&["import", &file, "linked"]);
}

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
            image(bed, links);
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
