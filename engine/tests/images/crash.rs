//! A command that is killed at any moment: the next one finds a consistent store, and no orphan.

use std::fs;
use std::process::{Command, Stdio};

use mica_core::mount::Bind;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Calls, Mounter, table};

use crate::archives::{DockerArchive, tar};
use crate::home::{Home, MICA};

/// The moments of making layers, in order; the first is before anything was begun.
const MAKING: [&str; 6] =
    ["layer.created", "layer.filled", "layer.committed", "layers.synced", "layer.staged", "layer.recorded"];
/// From the third on the image has its name.
const ENDING: [&str; 5] =
    ["image.staged", "image.recorded", "image.tagged", "transaction.working", "settle.condemned"];

fn layers() -> Vec<Vec<u8>> {
    vec![tar(&[("a/", b""), ("a/x", b"1")]), tar(&[("a/", b""), ("a/.wh.x", b"")]), tar(&[("b", b"2")])]
}

/// Kills the command at this point, and then with an error in place of the kill; each time nothing is half-made.
/// Where the image got its name before, it is whole.
fn survives(home: &Home, point: &str, arguments: &[&str], drivers: &[&str]) {
    let arguments = [drivers, arguments].concat();
    let answer = home.with_failpoint(point, &arguments);
    assert_eq!(answer.status, None, "killed at {point}: {answer:?}");
    let listed = home.ok(&["images", "-q"]);
    home.assert_consistent();
    if listed.is_empty() {
        home.assert_empty();
    } else {
        assert!(ENDING[2..].contains(&point), "an image after {point}");
        home.ok(&["rmi", listed.trim()]);
    }
    let answer = home.with_failpoint(&format!("{point}=error"), &arguments);
    let text = answer.refusal();
    assert!(text.contains(&format!("failpoint {point}")), "{text}");
    let listed = home.ok(&["images", "-q"]);
    home.assert_consistent();
    if !listed.is_empty() {
        home.ok(&["rmi", listed.trim()]);
    }
    home.assert_empty();
}

pub(crate) fn drivers() -> Vec<String> {
    let text = Home::new().ok(&["drivers", "--format", "{{.Name}} {{.Status}}"]);
    text.lines().filter_map(|line| line.strip_suffix(" available")).map(str::to_owned).collect()
}

#[test]
fn an_import_that_is_killed_leaves_all_or_nothing() {
    for driver in drivers() {
        let home = Home::new();
        let file = home.file("a.tar", &tar(&[("a/", b""), ("a/x", b"1")]));
        for point in ["import.announced"].iter().chain(&MAKING).chain(&ENDING) {
            survives(&home, point, &["import", &file, "a:1"], &["--storage-driver", &driver]);
        }
        home.ok(&["import", &file, "a:1"]);
        home.assert_consistent();
    }
}

#[test]
fn a_load_that_is_killed_leaves_all_or_nothing() {
    for driver in drivers() {
        let home = Home::new();
        let file = home.file("a.tar", &DockerArchive::new("a:1", &layers()).bytes());
        for point in MAKING.iter().chain(&ENDING) {
            survives(&home, point, &["load", "-i", &file], &["--storage-driver", &driver]);
        }
        home.ok(&["load", "-i", &file]);
        home.assert_consistent();
    }
}

#[test]
fn a_removal_that_is_killed_is_done_or_not_begun() {
    let points = [
        "rmi.announced",
        "rmi.untagged",
        "rmi.forgotten",
        "transaction.working",
        "settle.forgotten",
        "settle.condemned",
        "settle.removed",
    ];
    for (step, point) in points.iter().enumerate() {
        let home = Home::new();
        let file = home.file("a.tar", &DockerArchive::new("a:1", &layers()).bytes());
        home.ok(&["load", "-i", &file]);
        assert_eq!(home.with_failpoint(point, &["rmi", "a:1"]).status, None, "{point}");
        let listed = home.ok(&["images", "-q"]);
        home.assert_consistent();
        assert_eq!(listed.is_empty(), step > 0, "{point}");
        if listed.is_empty() {
            home.assert_empty();
        }
    }
}

#[test]
fn cleaning_up_after_a_kill_may_be_killed_itself() {
    let home = Home::new();
    let file = home.file("a.tar", &DockerArchive::new("a:1", &layers()).bytes());
    assert_eq!(home.with_failpoint("layer.recorded", &["load", "-i", &file]).status, None);
    for point in ["settle.forgotten", "settle.condemned", "settle.removed"] {
        assert_eq!(home.with_failpoint(point, &["images"]).status, None, "{point}");
    }
    home.assert_empty();
}

/// Not at a chosen point, but wherever it happens to be.
#[test]
fn a_kill_at_any_time_leaves_all_or_nothing() {
    let home = Home::new();
    let content = vec![b'x'; 200_000];
    let names: Vec<String> = (0..200).map(|index| format!("file-{index}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &content[..])).collect();
    let file = home.file("a.tar", &DockerArchive::new("a:1", &[tar(&files), tar(&files[..50])]).bytes());
    for size in [1usize, 7, 60, 150, 300, 900] {
        // The archive comes through a pipe, and the command is killed when so much of it was read.
        let mut child = Command::new(MICA)
            .arg("--root")
            .arg(home.root())
            .args(["import", "-", "a:1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let archive = fs::read(&file).unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut pipe, &archive[..size * 40_000]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(pipe);
        home.assert_empty();
    }
}

#[test]
fn two_at_once_make_one_layer() {
    let home = Home::new();
    let file = home.file("a.tar", &DockerArchive::new("a:1", &layers()).bytes());
    let plain = home.file("b.tar", &tar(&[("b", b"")]));
    let start = |arguments: &[&str]| {
        home.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> =
        (0..6)
            .map(|index| {
                if index % 2 == 0 { start(&["load", "-i", &file]) } else { start(&["import", &plain, "b:1"]) }
            })
            .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(home.names("layers").len(), 4);
    home.assert_consistent();
}

/// Old kernels mount a layer at a place below `tmp`. A check that took the place of a live command for a left one would
/// delete what is in the layer.
#[test]
fn a_mount_of_a_killed_command_is_undone_and_one_of_a_live_command_is_left_alone() {
    let home = Home::new();
    home.ok(&["images"]);
    let (tmp, source) = (home.root().join("tmp"), home.dir.path().join("source"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "kept").unwrap();
    let left = tmp.join("mount-1-0/tree");
    fs::create_dir_all(&left).unwrap();
    rustix::mount::mount_bind(&source, &left).unwrap();
    let bind = MountSpec::Bind(Bind { source: source.clone(), ..Bind::default() });
    let mounts = Mounts { specs: vec![bind], whiteouts: WhiteoutForm::Merged };
    let live = Mounter::new(&tmp).with_calls(Calls::Classic).open(&mounts).unwrap();
    let answer = home.ok(&["storage", "check", "--repair"]);
    assert!(answer.ends_with("all is well\n"), "{answer}");
    assert_eq!(home.names("tmp").len(), 1);
    assert_eq!(table::below(&tmp).unwrap().len(), 1);
    assert_eq!(fs::read(live.path().join("file")).unwrap(), b"kept");
    live.close().unwrap();
    assert_eq!(fs::read(source.join("file")).unwrap(), b"kept");
    home.assert_empty();
}

/// The image is on one driver; a container on the other needs it there.
#[test]
fn an_image_that_is_killed_on_its_way_to_another_driver_arrives_next_time() {
    let points =
        MAKING.iter().filter(|point| **point != "layer.staged").chain(&["layer.staged", "init.committed"]);
    let drivers = Home::new().drivers();
    if drivers.len() < 2 {
        eprintln!("skip: engine/image-to-another-driver: this host has the driver {} alone", drivers[0]);
    }
    let pairs = drivers.iter().flat_map(|from| drivers.iter().map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        let home = Home::new();
        let file = home.file("a.tar", &DockerArchive::new("a:1", &layers()).bytes());
        home.ok(&["--storage-driver", from, "load", "-i", &file]);
        let create = ["--storage-driver", to, "create", "--name", "c", "a:1", "/b"];
        for point in points.clone() {
            assert_eq!(home.with_failpoint(point, &create).status, None, "{point}");
            home.assert_consistent();
            home.with_failpoint(&format!("{point}=error"), &create);
            home.assert_consistent();
        }
        home.ok(&create);
        home.assert_consistent();
        let text = home.refused(&["rmi", "a:1"]);
        assert!(text.contains("is used by container c"), "{text}");
        home.ok(&["rm", "c"]);
        home.ok(&["rmi", "a:1"]);
        home.assert_empty();
    }
}
