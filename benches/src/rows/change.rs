//! One changed file in a container, on a small image and on a large one.

use std::process::Command;

use super::{Bound, Contender, Row, What};
use crate::images::Shape;
use crate::stage::Stage;
use crate::{Result, measure};

/// The data roots, with what their images hold.
const ROOTS: [(&str, Shape); 2] =
    [("small", Shape { layers: 10, files: 57 }), ("large", Shape { layers: 10, files: 5700 })];

pub(super) fn one_file(stage: &Stage) -> Result<Vec<Row<'_>>> {
    for (root, shape) in ROOTS {
        stage.image(root, shape)?;
        let mut change = stage.mica(root);
        change.args([
            "run",
            "--name",
            "w",
            "--network",
            "none",
            "bench",
            "/bin/sh",
            "-c",
            "echo new > /data/3/0/7",
        ]);
        measure::run(&mut change)?;
    }
    let upper = upper(stage)?;
    let floor = move || {
        let upper = upper.clone();
        Contender::new("tar c", move || {
            let mut command = Command::new("tar");
            command.args(["c", "-f", "/dev/null", "-C", &upper, "."]);
            command
        })
    };
    let diff = |name, root| {
        Contender::new(name, move || {
            let mut command = stage.mica(root);
            command.args(["diff", "w"]);
            command
        })
    };
    let commit = |name, root| {
        Contender::new(name, move || {
            let mut command = stage.mica(root);
            command.args(["commit", "w", "changed"]);
            command
        })
        .after(move || measure::run(stage.mica(root).args(["rmi", "changed"])).map(drop))
    };
    let bounds = || {
        vec![
            Bound::ratio(What::Cpu, "mica, 57,000 files", "tar c", 3.0),
            Bound::ratio(What::Cpu, "mica, 57,000 files", "mica, 570 files", 1.1),
        ]
    };
    let pair = ["mica, 570 files", "mica, 57,000 files"];
    Ok(vec![
        Row {
            name: "diff.one-file",
            contenders: vec![diff(pair[0], "small"), diff(pair[1], "large"), floor()],
            bounds: bounds(),
        },
        Row {
            name: "commit.one-file",
            contenders: vec![commit(pair[0], "small"), commit(pair[1], "large"), floor()],
            bounds: bounds(),
        },
    ])
}

/// The directory that holds the container's own files.
fn upper(stage: &Stage) -> Result<String> {
    let mut inspect = stage.mica("large");
    let output =
        inspect.args(["inspect", "w"]).output().map_err(|e| format!("inspect the container: {e}"))?;
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("inspect: {e}"))?;
    let dir = json.pointer("/0/GraphDriver/Data/UpperDir").and_then(serde_json::Value::as_str);
    dir.map(str::to_owned)
        .ok_or_else(|| "the container has no upper directory; these rows need overlayfs".to_owned())
}
