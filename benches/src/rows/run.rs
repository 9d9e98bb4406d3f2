//! A container that does nothing, beside the same bundle in a bare runtime on the same overlay, mounted beforehand.

use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use super::{Bound, Contender, Row, What, make};
use crate::images::Shape;
use crate::network::drain;
use crate::stage::Stage;
use crate::{Result, measure};

pub(super) fn each(stage: &Stage) -> Result<Vec<Row<'_>>> {
    stage.image("run", Shape { layers: 2, files: 500 })?;
    bundle(stage)?;
    let none: &[&str] = &["--network", "none"];
    let mica = mica(stage, "mica run", none);
    let runtime = |name, program: &'static str| {
        Contender::new(name, move || {
            let mut command = Command::new(program);
            command.args(["run", "--bundle"]).arg(stage.path("bundle")).arg("mica-bench");
            command
        })
    };
    let alone = Row {
        name: "run.none",
        contenders: vec![mica, runtime("crun run", "crun"), runtime("runc run", "runc")],
        bounds: vec![Bound::ratio(What::Cpu, "mica run", "crun run", 1.0)],
    };
    let connected = vec![
        self::mica(stage, "no network", none),
        self::mica(stage, "the default network", &[]),
        self::mica(stage, "a published port", &["-p", "8080:80"]),
        self::mica(stage, "1,000 published ports", &["-p", "3000-3999:3000-3999"]),
    ];
    Ok(vec![alone, Row { name: "run.bridge", contenders: connected, bounds: Vec::new() }])
}

/// A container that does nothing, connected so.
fn mica<'a>(stage: &'a Stage, name: &str, network: &'a [&str]) -> Contender<'a> {
    Contender::new(name, move || {
        let mut command = stage.mica("run");
        command.args(["run", "--rm"]).args(network).args(["bench", "/bin/busybox", "true"]);
        command
    })
    // The next one does not wait for the kernel to clear away what this one had.
    .after(drain)
}

/// Docker's defaults, seccomp included, on an overlay of two directories.
fn bundle(stage: &Stage) -> Result<()> {
    let rootfs = stage.path("bundle/rootfs");
    let parts = [
        "bundle",
        "bundle/rootfs",
        "overlay",
        "overlay/lower",
        "overlay/base",
        "overlay/upper",
        "overlay/work",
    ];
    for part in parts {
        make(&stage.path(part))?;
    }
    std::fs::create_dir(stage.path("overlay/lower/bin")).map_err(|e| e.to_string())?;
    let copied = std::fs::copy("/bin/busybox", stage.path("overlay/lower/bin/busybox"));
    copied.map_err(|e| format!("copy /bin/busybox (the package busybox-static): {e}"))?;
    let part = |name: &str| stage.path(&format!("overlay/{name}")).display().to_string();
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        part("lower"),
        part("base"),
        part("upper"),
        part("work")
    );
    let mounted = mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
    mounted.map_err(|e| format!("mount an overlay: {e}"))?;
    let spec = mica_runtime::default_spec(&rootfs, &["/bin/busybox".to_owned(), "true".to_owned()]);
    let saved = spec.save(stage.path("bundle/config.json"));
    saved.map_err(|e| format!("write the bundle: {e}"))?;
    probe(&stage.path("bundle"))
}

fn probe(bundle: &Path) -> Result<()> {
    let mut once = Command::new("crun");
    measure::run(once.args(["run", "--bundle"]).arg(bundle).arg("mica-bench")).map(drop)
}
