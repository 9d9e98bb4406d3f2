//! Other people's tools: what they write is loaded as the image that it is, and what is saved they read as the same.

mod samples;
mod skopeo;
mod tarballs;
mod umoci;

use std::path::{Path, PathBuf};
use std::process::Command;

use mica_conformance::tree::{Snapshot, Times};
use serde_json::Value;

use crate::home::Home;

/// Whether the host lacks the tool, for which the test is then skipped.
fn lacks(tool: &str, test: &str) -> bool {
    let lacks = Command::new(tool).arg("--version").output().is_err();
    if lacks {
        eprintln!("skip: engine/interop-{test}: {tool} is not installed");
    }
    lacks
}

/// What a tool prints; it must succeed.
fn ask(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

/// A new directory beside the data root.
fn directory(home: &Home, name: &str) -> PathBuf {
    let path = home.dir.path().join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A directory as a tarball, which is put beside it.
fn packed(directory: &Path) -> String {
    let file = format!("{}.tar", text(directory));
    ask("tar", &["-C", text(directory), "-cf", &file, "."]);
    file
}

/// The whole tree of the only image of a root, as the driver has it that keeps whole trees.
fn tree(home: &Home) -> PathBuf {
    let records: Vec<(String, Value)> = home
        .names("layers")
        .into_iter()
        .map(|chain| {
            let record = std::fs::read(home.root().join("layers").join(&chain).join("layer.json")).unwrap();
            (format!("sha256:{chain}"), serde_json::from_slice(&record).unwrap())
        })
        .collect();
    let is_parent = |chain: &str| records.iter().any(|(_, record)| record["parent"] == chain);
    let (_, top) = records.iter().find(|(chain, _)| !is_parent(chain)).unwrap();
    let id = top["drivers"]["vfs"].as_str().unwrap();
    home.root().join("storage/vfs/layers").join(id).join("tree")
}

fn assert_same(found: &Path, expected: &Path, times: Times) {
    let (found, expected) = (Snapshot::of(found).unwrap(), Snapshot::of(expected).unwrap());
    assert_eq!(found.differences(&expected, times), Vec::<String>::new());
}
