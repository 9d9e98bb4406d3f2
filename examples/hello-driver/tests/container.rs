//! Containers on this driver, run by this crate's own command.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use mica_core::failpoint;

/// The command with this driver and the data root `root`.
fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hello"));
    command.arg("--root").arg(root).args(["--storage-driver", "hello"]).args(arguments);
    command
}

/// What it prints.
fn hello(root: &Path, arguments: &[&str]) -> String {
    let output = command(root, arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{err}{out}", output.status);
    out.into_owned()
}

/// A tarball of a root file system with a static busybox.
fn root_file_system(dir: &Path) -> String {
    let (tree, tarball) = (dir.join("tree"), dir.join("tree.tar"));
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("the package busybox-static is installed");
    symlink("busybox", tree.join("bin/sh")).unwrap();
    let status = Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tarball).arg(".").status().unwrap();
    assert!(status.success());
    tarball.to_str().unwrap().to_owned()
}

#[test]
fn a_container_runs_on_the_added_driver_and_its_changes_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let root = &dir.path().join("root");
    hello(root, &["import", &root_file_system(dir.path()), "busybox"]);

    let script = "echo hi > /greeting && cat /greeting";
    let run = ["run", "--name", "w", "--network", "none", "busybox", "sh", "-c"];
    assert_eq!(hello(root, &[&run[..], &[script]].concat()), "hi\n");
    assert_eq!(hello(root, &["diff", "w"]), "A /greeting\n");
    let on_disk = fs::read_dir(root.join("storage/hello/layers")).unwrap();
    assert!(on_disk.count() >= 2, "the image's layer and the container's are in the driver's directory");

    hello(root, &["rm", "w"]);
    hello(root, &["rmi", "busybox"]);
    assert_eq!(fs::read_dir(root.join("storage/hello/layers")).unwrap().count(), 0);
    // What is kept of networks until the host is started again is not in the root.
    if let Ok(owner) = fs::read_to_string(root.join("owner")) {
        fs::remove_dir_all(Path::new("/run/mica").join(owner.trim())).unwrap();
    }
}

#[test]
fn what_a_crash_left_is_gone_when_the_driver_is_opened_next() {
    let dir = tempfile::tempdir().unwrap();
    let root = &dir.path().join("root");
    let import = ["import", &root_file_system(dir.path()), "busybox"];
    let crashed = command(root, &import).env(failpoint::VARIABLE, "shelf.create.filled").output().unwrap();
    assert_eq!(crashed.status.code(), None, "the failpoint aborts the process");
    let count = |part: &str| fs::read_dir(root.join("storage/hello").join(part)).unwrap().count();
    assert_eq!((count("staging"), count("layers")), (1, 0));

    hello(root, &import);
    assert_eq!((count("staging"), count("layers")), (0, 1));
}

#[test]
fn the_command_lists_the_added_driver_beside_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let listed = hello(dir.path(), &["drivers"]);
    let line = listed.lines().find(|line| line.starts_with("hello ")).expect(&listed);
    assert_eq!(line.split_whitespace().nth(1), Some("available"));
    assert!(hello(dir.path(), &["drivers", "show", "hello"]).contains("threads"));
}
