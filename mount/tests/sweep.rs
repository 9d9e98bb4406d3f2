//! What a process leaves behind that is killed while it has a tree by `mount(2)`, the one way that needs a place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use mica_core::mount::Bind;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Calls, Mounter, Tree, sweep, table};

/// Where the process that is killed mounts.
const PLACE: &str = "MICA_TEST_PLACE";

fn open(place: &Path) -> Tree {
    let bind = |source: &str, target: &str| {
        let (source, target) = (place.join(source), target.into());
        MountSpec::Bind(Bind { source, target, ..Bind::default() })
    };
    let specs = vec![bind("source", ""), bind("other", "below")];
    let mounts = Mounts { specs, whiteouts: WhiteoutForm::Merged };
    Mounter::new(place.join("scratch")).with_calls(Calls::Classic).open(&mounts).unwrap()
}

#[test]
fn a_tree_of_a_killed_process_is_swept_and_one_of_a_live_process_stays() {
    if let Some(place) = std::env::var_os(PLACE) {
        let _tree = open(place.as_ref());
        println!("mounted");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["source/below", "other", "scratch"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("other/file"), "kept").unwrap();
    let scratch = dir.path().join("scratch");
    let live = open(dir.path());
    kill_with_a_tree(dir.path());
    let mounts = || table::below(&scratch).unwrap().len();
    assert_eq!((fs::read_dir(&scratch).unwrap().count(), mounts()), (2, 4));
    sweep(&scratch).unwrap();
    assert_eq!((fs::read_dir(&scratch).unwrap().count(), mounts()), (1, 2));
    assert_eq!(fs::read(live.path().join("below/file")).unwrap(), b"kept");
    live.close().unwrap();
    sweep(&scratch).unwrap();
    assert_eq!((fs::read_dir(&scratch).unwrap().count(), mounts()), (0, 0));
    assert_eq!(fs::read(dir.path().join("other/file")).unwrap(), b"kept", "only the mount goes");
}

/// Runs this very test in a process of its own up to where it has a tree.
fn kill_with_a_tree(place: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--nocapture",
            "--exact",
            "a_tree_of_a_killed_process_is_swept_and_one_of_a_live_process_stays",
        ])
        .env(PLACE, place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open until it is dead, for at the end of it the child closes its tree.
    let _input = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("mounted")));
    child.kill().unwrap();
    child.wait().unwrap();
}
