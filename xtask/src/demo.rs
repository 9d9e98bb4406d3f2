//! `cargo xtask demo`: a real root file system, run on every driver of this host.

use crate::options::Options;
use crate::run::{self, cargo, command, is_root, output};
use crate::setup::{self, For};
use crate::{Result, rootfs};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Says what a container sees; one `KEY=VALUE` on each line.
const LOOK: &str = r#"
. /etc/os-release
echo "system=$PRETTY_NAME"
echo "files=$(find / -xdev | wc -l)"
while read -r _ dir type _; do [ "$dir" = / ] && root=$type; done < /proc/mounts
echo "root=$root"
echo "kernel=$(uname -r)"
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "pid=$$"
"#;

const ROWS: [(&str, &str); 9] = [
    ("system", "operating system"),
    ("files", "files"),
    ("root", "root file system"),
    ("kernel", "kernel"),
    ("hostname", "hostname"),
    ("pid", "process id of the shell"),
    ("first", "time of the first run"),
    ("next", "time of the next run"),
    ("diff", "changes after one write"),
];

pub(crate) fn verb(options: &Options) -> Result<ExitCode> {
    if !is_root() {
        return Err("the demo mounts file systems and starts containers: run it as root".to_owned());
    }
    setup::ensure(For::Demo, options.install)?;
    println!("demo: cargo build --release");
    let mut build = cargo();
    build.args(["build", "--release", "--package=mica-engine", "--bin=mica"]).args(setup::features()?);
    if !run::passes(&mut build)? {
        return Err("the build failed".to_owned());
    }
    let target = run::target_dir()?;
    let cache = target.join("demo");
    let rootfs = rootfs::prepare(&cache)?;
    let mica = Mica::create(target.join("release/mica"), cache.join("root"))?;

    let started = Instant::now();
    output(mica.command().arg("import").arg(&rootfs.tar).arg(rootfs.image))?;
    println!("demo: imported as {} in {}", rootfs.image, seconds(started));
    let drivers = drivers(&output(mica.command().args(["drivers", "--format", DRIVERS]))?);
    let columns: Vec<Column> = drivers
        .iter()
        .filter(|driver| driver.available)
        .map(|driver| mica.show(&driver.name, rootfs.image))
        .collect();
    println!("\n{}", table(&columns));
    for column in &columns {
        if let Some(error) = &column.error {
            println!("failed on {}: {error}", column.driver);
        }
    }
    for driver in drivers.iter().filter(|driver| !driver.available) {
        println!("not on this host: {}: {}", driver.name, driver.reason);
    }
    let failed = columns.is_empty() || columns.iter().any(|column| column.error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The real command, on a data root of its own that goes when this does.
struct Mica {
    program: PathBuf,
    root: PathBuf,
}

impl Mica {
    fn create(program: PathBuf, root: PathBuf) -> Result<Self> {
        let mica = Self { program, root };
        run::remove_tree(&mica.root)?;
        fs::create_dir_all(&mica.root).map_err(|e| format!("{}: {e}", mica.root.display()))?;
        Ok(mica)
    }

    fn command(&self) -> Command {
        let mut command = command(&self.program);
        command.arg("--root").arg(&self.root);
        command
    }

    /// What a container on `driver` sees and does, as far as it comes.
    fn show(&self, driver: &str, image: &str) -> Column {
        let mut column = Column { driver: driver.to_owned(), values: Vec::new(), error: None };
        column.error = self.look(driver, image, &mut column).err();
        column
    }

    fn look(&self, driver: &str, image: &str, column: &mut Column) -> Result<()> {
        let hostname = format!("on-{driver}");
        let started = Instant::now();
        let mut run = self.on(driver, &["run", "--rm", "--network", "none", "--hostname", &hostname]);
        let seen = output(run.args([image, "sh", "-c", LOOK]))?;
        column.add("first", seconds(started));
        for (key, value) in seen.lines().filter_map(|line| line.split_once('=')) {
            column.add(key, value.to_owned());
        }
        let started = Instant::now();
        output(self.on(driver, &["run", "--rm", "--network", "none"]).args([image, "true"]))?;
        column.add("next", seconds(started));
        let name = format!("writer-{driver}");
        let mut run = self.on(driver, &["run", "--network", "none", "--name", &name]);
        output(run.args([image, "sh", "-c", "echo hello > /srv/hello"]))?;
        let diff = output(self.command().args(["diff", &name]))?;
        column.add("diff", diff.lines().collect::<Vec<_>>().join(", "));
        output(self.command().args(["rm", &name])).map(drop)
    }

    fn on(&self, driver: &str, args: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["--storage-driver", driver]).args(args);
        command
    }
}

impl Drop for Mica {
    fn drop(&mut self) {
        // What its networks have below /run is there under the root's name in the kernel.
        let owner = fs::read_to_string(self.root.join("owner"));
        let kept = owner.map(|owner| Path::new("/run/mica").join(owner.trim()));
        for tree in [kept.as_deref().ok(), Some(&self.root)].into_iter().flatten() {
            if let Err(error) = run::remove_tree(tree) {
                eprintln!("xtask: {error}");
            }
        }
    }
}

/// What [`drivers`] reads.
const DRIVERS: &str = "{{.Name}} {{.Status}} {{.Lacking}}";

/// A storage driver of this host.
#[derive(Debug, PartialEq)]
struct Driver {
    name: String,
    available: bool,
    reason: String,
}

/// Reads lines of `mica drivers`.
fn drivers(listing: &str) -> Vec<Driver> {
    let driver = |line: &str| {
        let (name, rest) = line.split_once(char::is_whitespace)?;
        let rest = rest.trim_start();
        let (status, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (available, reason) = (status == "available", reason.trim().to_owned());
        Some(Driver { name: name.to_owned(), available, reason })
    };
    listing.lines().filter_map(driver).collect()
}

/// What was seen on one driver.
#[derive(Debug)]
struct Column {
    driver: String,
    values: Vec<(String, String)>,
    error: Option<String>,
}

impl Column {
    fn add(&mut self, key: &str, value: String) {
        self.values.push((key.to_owned(), value));
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn width(&self) -> usize {
        let widths = self.values.iter().map(|(_, value)| value.chars().count());
        widths.chain([self.driver.len()]).max().unwrap_or(0)
    }
}

/// A row for each thing that some driver has, a column for each driver.
fn table(columns: &[Column]) -> String {
    let row = |label: &str, cell: &dyn Fn(&Column) -> String| {
        let cells = columns.iter().map(|column| format!("  {:<1$}", cell(column), column.width()));
        format!("{label:<24}{}", cells.collect::<String>()).trim_end().to_owned() + "\n"
    };
    let mut text = row("", &|column| column.driver.clone());
    for (key, label) in ROWS {
        if columns.iter().any(|column| column.value(key).is_some()) {
            text += &row(label, &|column| column.value(key).unwrap_or("-").to_owned());
        }
    }
    text
}

fn seconds(since: Instant) -> String {
    format!("{:.2} s", since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_read_with_their_reasons() {
        let listing = "fast available \nold unavailable the kernel lacks aufs\n";
        let drivers = drivers(listing);
        assert_eq!((drivers[0].name.as_str(), drivers[0].available), ("fast", true));
        assert_eq!((drivers[1].available, drivers[1].reason.as_str()), (false, "the kernel lacks aufs"));
    }

    #[test]
    fn the_table_has_a_column_for_each_driver_and_no_empty_row() {
        let mut first = Column { driver: "fast".to_owned(), values: Vec::new(), error: None };
        first.add("root", "overlay".to_owned());
        let second = Column { driver: "slow".to_owned(), values: Vec::new(), error: None };
        let text = table(&[first, second]);
        let rows: Vec<Vec<&str>> = text.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows, [vec!["fast", "slow"], vec!["root", "file", "system", "overlay", "-"]]);
    }
}
