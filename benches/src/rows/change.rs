//! One changed file in a container, on a small image and on a large one.

use std::process::Command;

use super::{Bound, Contender, Row, What};
use crate::images::Shape;
use crate::stage::Stage;
use crate::{Result, measure};

const SMALL: Shape = Shape { layers: 10, files: 57 };
const LARGE: Shape = Shape { layers: 10, files: 5700 };

/// The data roots. Making things durable costs nothing in the last one.
const ROOTS: [(&str, Shape); 3] = [("small", SMALL), ("large", LARGE), ("tmpfs/large", LARGE)];

const PAIR: [&str; 2] = ["mica, 570 files", "mica, 57,000 files"];

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
    let alike = || Bound::ratio(What::Cpu, PAIR[1], PAIR[0], 1.1);
    Ok(vec![
        Row {
            name: "diff.one-file",
            contenders: vec![
                diff(stage, PAIR[0], "small"),
                diff(stage, PAIR[1], "large"),
                floor(stage, "large")?,
            ],
            bounds: vec![Bound::ratio(What::Cpu, PAIR[1], "tar c", 3.0), alike()],
        },
        Row {
            name: "commit.one-file",
            contenders: vec![
                commit(stage, PAIR[0], "small"),
                commit(stage, PAIR[1], "large"),
                floor(stage, "large")?,
            ],
            bounds: vec![alike()],
        },
        Row {
            name: "commit.no-barrier",
            contenders: vec![commit(stage, PAIR[1], "tmpfs/large"), floor(stage, "tmpfs/large")?],
            bounds: vec![Bound::ratio(What::Cpu, PAIR[1], "tar c", 3.0)],
        },
    ])
}

fn diff<'a>(stage: &'a Stage, name: &'static str, root: &'static str) -> Contender<'a> {
    Contender::new(name, move || {
        let mut command = stage.mica(root);
        command.args(["diff", "w"]);
        command
    })
}

fn commit<'a>(stage: &'a Stage, name: &'static str, root: &'static str) -> Contender<'a> {
    Contender::new(name, move || {
        let mut command = stage.mica(root);
        command.args(["commit", "w", "changed"]);
        command
    })
    .after(move || measure::run(stage.mica(root).args(["rmi", "changed"])).map(drop))
}

/// A tarball of the directory that holds the container's own files.
fn floor<'a>(stage: &Stage, root: &str) -> Result<Contender<'a>> {
    let output = stage.mica(root).args(["inspect", "w"]).output();
    let output = output.map_err(|e| format!("inspect the container: {e}"))?;
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("inspect: {e}"))?;
    let dir = json.pointer("/0/GraphDriver/Data/UpperDir").and_then(serde_json::Value::as_str);
    let upper = dir.ok_or("the container has no upper directory; these rows need overlayfs")?.to_owned();
    Ok(Contender::new("tar c", move || {
        let mut command = Command::new("tar");
        command.args(["c", "-f", "/dev/null", "-C", &upper, "."]);
        command
    }))
}
