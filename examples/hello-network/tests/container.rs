//! Containers on networks of this driver, run by this crate's own command, on a host of their own: a network namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// The driver's networks from the first command to the last, and what is then left of them.
const LIFE: &str = r#"
ip link set lo up
hello() { "$HELLO" --root "$ROOT" --storage-driver vfs "$@"; }
trap 'hello rm -f server > /dev/null 2>&1' EXIT
hello import "$TARBALL" busybox > /dev/null
hello network create -d hello --subnet 10.77.0.0/24 greetings > /dev/null
hello run -d --name server --network greetings busybox sleep 300 > /dev/null
hello run --rm --network greetings busybox ping -c 1 -W 5 server | grep -o '1 packets received'
hello network check
hello rm -f server
hello network rm greetings
ip -oneline link show | cut -d: -f2
"#;

/// A tarball of a root file system with a static busybox.
fn root_file_system(dir: &Path) -> String {
    let (tree, tarball) = (dir.join("tree"), dir.join("tree.tar"));
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("the package busybox-static is installed");
    for name in ["ping", "sleep"] {
        symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    let status = Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tarball).arg(".").status().unwrap();
    assert!(status.success());
    tarball.to_str().unwrap().to_owned()
}

#[test]
fn containers_find_and_reach_each_other_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let mut host = Command::new("unshare");
    host.args(["--net", "sh", "-euc", LIFE]).env("HELLO", env!("CARGO_BIN_EXE_hello-network"));
    host.env("ROOT", &root).env("TARBALL", root_file_system(dir.path()));
    let output = host.output().unwrap();
    // What is kept of networks until the host is started again is not in the root.
    if let Ok(owner) = fs::read_to_string(root.join("owner")) {
        fs::remove_dir_all(Path::new("/run/mica").join(owner.trim())).unwrap();
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{err}{out}", output.status);
    assert_eq!(out, "1 packets received\nnothing to do\nserver\ngreetings\n lo\n", "{err}");
}
