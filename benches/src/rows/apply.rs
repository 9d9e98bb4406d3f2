//! Layers in and out.

use std::process::Command;

use super::{Bound, Contender, Row, What, clear, make, shell};
use crate::images::Shape;
use crate::stage::Stage;
use crate::{Result, measure};

fn hash<'a>(stage: &'a Stage, file: &'static str) -> Contender<'a> {
    Contender::new("hash", move || {
        let mut command = Command::new("/proc/self/exe");
        command.arg("hash").arg(stage.path(file));
        command
    })
}

fn untar(stage: &Stage) -> Contender<'_> {
    Contender::new("tar x", move || extract(stage))
        .before(move || make(&stage.path("floor")))
        .after(move || clear(&stage.path("floor")))
}

fn extract(stage: &Stage) -> Command {
    let mut command = Command::new("tar");
    command.arg("xf").arg(stage.path("rootfs.tar")).arg("-C").arg(stage.path("floor"));
    command
}

/// One layer of a real Debian.
pub(super) fn debian(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let import = Contender::new("mica import", move || {
        let mut command = stage.mica("apply");
        command.arg("import").arg(stage.path("rootfs.tar")).arg("debian:12");
        command
    })
    .after(move || clear(&stage.path("apply")));
    let apply = Row {
        name: "apply.debian",
        contenders: vec![import, untar(stage), hash(stage, "rootfs.tar")],
        bounds: vec![
            Bound::ratio_without(What::Cpu, "mica import", "hash", "tar x", 1.0),
            Bound::most(What::Memory, "mica import", 64.0),
        ],
    };
    // What it takes to have the same files on the disk for good.
    let sync = Contender::new("sync -f", move || {
        let mut command = Command::new("sync");
        command.arg("-f").arg(stage.path("floor"));
        command
    })
    .before(move || make(&stage.path("floor")).and_then(|()| measure::run(&mut extract(stage)).map(drop)))
    .after(move || clear(&stage.path("floor")));
    Ok(vec![apply, Row { name: "barrier", contenders: vec![sync], bounds: Vec::new() }])
}

/// An image of ten layers and 57,000 files, on one processor and on two; then where making it durable costs nothing.
pub(super) fn ten_layers(stage: &Stage) -> Result<Vec<Row<'_>>> {
    Shape { layers: 10, files: 5700 }.make(&stage.path("ten.tar"))?;
    let row = |name, root| Row {
        name,
        contenders: vec![load(stage, root, TWO, "0,1"), load(stage, root, ONE, "0")],
        bounds: vec![Bound::ratio(What::Wall, TWO, ONE, 0.65), Bound::most(What::Memory, TWO, 64.0)],
    };
    Ok(vec![row("apply.ten-layers", "ten"), row("apply.ten-layers.no-barrier", "tmpfs/ten")])
}

const TWO: &str = "two processors";
const ONE: &str = "one processor";

fn load<'a>(
    stage: &'a Stage,
    root: &'static str,
    name: &'static str,
    processors: &'static str,
) -> Contender<'a> {
    Contender::new(name, move || {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", processors]).arg(&stage.mica).arg("--root").arg(stage.path(root));
        command.args(["load", "--input"]).arg(stage.path("ten.tar"));
        command
    })
    // What the contender before this one left to be written is not to be paid here.
    .before(move || measure::run(Command::new("sync").arg("-f").arg(stage.path("."))).map(drop))
    .after(move || clear(&stage.path(root)))
}

/// A layer as a tarball again.
pub(super) fn save(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let mut import = stage.mica("save");
    measure::run(import.arg("import").arg(stage.path("rootfs.tar")).arg("debian:12"))?;
    make(&stage.path("tree"))?;
    let mut floor = Command::new("tar");
    measure::run(floor.arg("xf").arg(stage.path("rootfs.tar")).arg("-C").arg(stage.path("tree")))?;
    let save =
        format!("'{}' --root '{}' save debian:12 | cat", stage.mica.display(), stage.path("save").display());
    let pack = format!("tar c -C '{}' . | cat", stage.path("tree").display());
    Ok(vec![Row {
        name: "save.debian",
        contenders: vec![
            Contender::new("mica save", move || shell(&save)),
            Contender::new("tar c", move || shell(&pack)),
            hash(stage, "rootfs.tar"),
        ],
        bounds: vec![Bound::ratio_without(What::Cpu, "mica save", "hash", "tar c", 2.0)],
    }])
}
