//! The root file system of the demonstration, as a tar.

use crate::Result;
use crate::run::{command, output};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A root file system to import.
#[derive(Debug)]
pub(crate) struct RootFs {
    pub(crate) tar: PathBuf,
    pub(crate) image: &'static str,
}

/// Finds the Debian tree in `cache`, or makes it, or falls back to the static busybox; says which.
pub(crate) fn prepare(cache: &Path) -> Result<RootFs> {
    fs::create_dir_all(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let tar = cache.join("debian-12.tar");
    if tar.exists() {
        println!("demo: root file system: Debian 12, kept from an earlier run in {}", tar.display());
        return Ok(RootFs { tar, image: "debian:12" });
    }
    println!("demo: root file system: Debian 12 by mmdebstrap, which takes about a minute");
    let started = Instant::now();
    match debian(cache, &tar) {
        Ok(()) => {
            println!("demo: made in {:.0} s, kept in {}", started.elapsed().as_secs_f64(), tar.display());
            Ok(RootFs { tar, image: "debian:12" })
        }
        Err(reason) => {
            println!("demo: no Debian ({reason})");
            println!("demo: root file system: the static busybox");
            Ok(RootFs { tar: busybox(cache)?, image: "busybox:static" })
        }
    }
}

fn debian(cache: &Path, tar: &Path) -> Result<()> {
    let partial = cache.join("debian-12.partial.tar");
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase"]);
    // Where the archive cannot be reached, that shows soon.
    mmdebstrap.args(["--aptopt=Acquire::http::Timeout \"20\"", "--aptopt=Acquire::Retries \"1\""]);
    output(mmdebstrap.arg("bookworm").arg(&partial))?;
    fs::rename(&partial, tar).map_err(|e| format!("{}: {e}", tar.display()))
}

/// A tree with nothing but the static busybox.
pub(crate) fn busybox(cache: &Path) -> Result<PathBuf> {
    let program = Path::new("/bin/busybox");
    let applets = output(command(program).arg("--list"))
        .map_err(|_| "no /bin/busybox: install the package busybox-static".to_owned())?;
    let dir = cache.join("busybox");
    let tar = cache.join("busybox.tar");
    let built = fill(&dir, program, &applets);
    built.map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut pack = command("tar");
    pack.args(["--create", "--numeric-owner", "--owner=0", "--group=0", "--file"]).arg(&tar);
    output(pack.arg("--directory").arg(&dir).arg("."))?;
    Ok(tar)
}

fn fill(dir: &Path, busybox: &Path, applets: &str) -> std::io::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    for name in ["bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp"] {
        fs::create_dir_all(dir.join(name))?;
    }
    fs::copy(busybox, dir.join("bin/busybox"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", dir.join("bin").join(applet))?;
    }
    fs::write(dir.join("etc/os-release"), "NAME=BusyBox\nPRETTY_NAME=\"BusyBox (static)\"\n")?;
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busybox_tree_has_a_shell() {
        let dir = std::env::temp_dir().join(format!("xtask-busybox.{}", std::process::id()));
        let filled = fill(&dir, Path::new("/bin/true"), "busybox\nls\nsh\n");
        let shell = fs::read_link(dir.join("bin/sh"));
        fs::remove_dir_all(&dir).unwrap();
        filled.unwrap();
        assert_eq!(shell.unwrap(), Path::new("busybox"));
    }
}
