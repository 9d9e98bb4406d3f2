//! What a container's layer costs on each storage driver of this host: made on an image, written to, compared, committed
//! and removed.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Bound, Contender, Row, What};
use crate::stage::Stage;
use crate::{Result, measure};

const ROOT: &str = "layers";
/// In the image, and in the last row written to in its middle.
const LARGE: &str = "head -c 268435456 /dev/urandom > /large";
const MIDDLE: u64 = 128 << 20;
const CHANGE: &str = "echo new > /etc/motd";

/// Rows on the Debian root file system and a file of 256 MiB, with a contender for each driver.
pub(super) fn each_driver(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let drivers = drivers(stage)?;
    measure::run(stage.mica(ROOT).arg("import").arg(&stage.rootfs).arg("debian"))?;
    measure::run(stage.mica(ROOT).args([
        "run",
        "--name",
        "l",
        "--network",
        "none",
        "debian",
        "sh",
        "-c",
        LARGE,
    ]))?;
    measure::run(stage.mica(ROOT).args(["commit", "l", "bench"]))?;
    measure::run(stage.mica(ROOT).args(["rm", "l"]))?;
    for driver in &drivers {
        // The first of a driver brings the image there.
        changed(stage, driver, &name("w", driver))?;
    }
    let row = |name, contender: fn(&'_ Stage, String) -> Contender<'_>, bounds| Row {
        name,
        contenders: drivers.iter().map(|driver| contender(stage, driver.clone())).collect(),
        bounds,
    };
    let has = |wanted: &str| drivers.iter().any(|driver| driver == wanted);
    // One block is copied, and not the file.
    let fiftieth = Bound::ratio(What::Wall, "devmapper", "overlay2", 0.02);
    let bounds = if has("devmapper") && has("overlay2") { vec![fiftieth] } else { vec![] };
    Ok(vec![
        row("layer.create", create, vec![]),
        row("layer.first-byte", first_byte, bounds),
        row("layer.diff", diff, vec![]),
        row("layer.commit", commit, vec![]),
        row("layer.remove", remove, vec![]),
    ])
}

/// The drivers that this host has.
fn drivers(stage: &Stage) -> Result<Vec<String>> {
    let output = stage.mica(ROOT).args(["drivers", "--format", "{{.Name}} {{.Status}}"]).output();
    let output = output.map_err(|e| format!("list the drivers: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(" available")).map(str::to_owned).collect())
}

fn on(stage: &Stage, driver: &str) -> Command {
    let mut command = stage.mica(ROOT);
    command.args(["--storage-driver", driver]);
    command
}

fn name(what: &str, driver: &str) -> String {
    format!("{what}-{driver}")
}

/// A container that ended after it changed a file.
fn changed(stage: &Stage, driver: &str, name: &str) -> Result<()> {
    let mut run = on(stage, driver);
    run.args(["run", "--name", name, "--network", "none", "bench", "sh", "-c", CHANGE]);
    measure::run(&mut run).map(drop)
}

fn create(stage: &Stage, driver: String) -> Contender<'_> {
    let container = name("c", &driver);
    let made = container.clone();
    Contender::new(driver.clone(), move || {
        let mut command = on(stage, &driver);
        command.args(["create", "--name", &made, "bench", "true"]);
        command
    })
    .after(move || measure::run(stage.mica(ROOT).args(["rm", &container])).map(drop))
}

/// One byte of a file of 256 MiB in a container that runs, until it is on the disk.
fn first_byte(stage: &Stage, driver: String) -> Contender<'_> {
    let container = name("b", &driver);
    let removed = container.clone();
    let large: std::rc::Rc<RefCell<PathBuf>> = std::rc::Rc::default();
    let place = large.clone();
    Contender::call(driver.clone(), move || {
        let failed = |e| format!("write to '{}': {e}", large.borrow().display());
        let file = OpenOptions::new().write(true).open(large.borrow().as_path()).map_err(failed)?;
        file.write_all_at(b"x", MIDDLE).and_then(|()| file.sync_all()).map_err(failed)
    })
    .before(move || {
        let mut run = on(stage, &driver);
        run.args(["run", "-d", "--name", &container, "--network", "none", "bench", "sleep", "1000"]);
        // It goes on in the background.
        let run = run.stdout(Stdio::null()).status().map_err(|e| format!("run a container: {e}"))?;
        if !run.success() {
            return Err(format!("container {container} does not run"));
        }
        let inspect = stage.mica(ROOT).args(["inspect", "--format", "{{.State.Pid}}", &container]).output();
        let inspect = inspect.map_err(|e| format!("inspect a container: {e}"))?;
        let pid = String::from_utf8_lossy(&inspect.stdout).trim().to_owned();
        *place.borrow_mut() = format!("/proc/{pid}/root/large").into();
        // What others wrote must not be waited for.
        let dir = File::open(stage.path(ROOT)).map_err(|e| format!("open the data root: {e}"))?;
        nix::unistd::syncfs(dir).map_err(|e| format!("sync the data root: {e}"))
    })
    .after(move || measure::run(stage.mica(ROOT).args(["rm", "-f", &removed])).map(drop))
}

fn diff(stage: &Stage, driver: String) -> Contender<'_> {
    let container = name("w", &driver);
    Contender::new(driver, move || {
        let mut command = stage.mica(ROOT);
        command.args(["diff", &container]);
        command
    })
}

fn commit(stage: &Stage, driver: String) -> Contender<'_> {
    let container = name("w", &driver);
    Contender::new(driver, move || {
        let mut command = stage.mica(ROOT);
        command.args(["commit", &container, "changed"]);
        command
    })
    .after(move || measure::run(stage.mica(ROOT).args(["rmi", "changed"])).map(drop))
}

fn remove(stage: &Stage, driver: String) -> Contender<'_> {
    let container = name("r", &driver);
    let made = container.clone();
    Contender::new(driver.clone(), move || {
        let mut command = stage.mica(ROOT);
        command.args(["rm", &container]);
        command
    })
    .before(move || changed(stage, &driver, &made))
}
