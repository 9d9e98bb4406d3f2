//! The guest's kernel: a Debian package, fetched and verified by apt, unpacked and not installed.

use crate::Result;
use crate::run::{self, command};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "user-mode-linux";

pub(crate) struct Kernel {
    pub(crate) program: PathBuf,
    pub(crate) modules: PathBuf,
}

impl Kernel {
    /// Finds the unpacked package in `dir`, or with `install` puts it there.
    pub(crate) fn prepare(dir: &Path, install: bool) -> Result<Self> {
        let unpacked = dir.join(PACKAGE);
        if !unpacked.exists() {
            if !install {
                return Err(format!(
                    "no kernel for the guest in {}: run this without --no-install",
                    dir.display()
                ));
            }
            println!("guest: fetching {PACKAGE} (41 MB)");
            fetch(dir, &unpacked)?;
        }
        Self::find(&unpacked)
    }

    fn find(unpacked: &Path) -> Result<Self> {
        let modules = unpacked.join("usr/lib/uml/modules");
        let entries = fs::read_dir(&modules).map_err(|e| format!("{}: {e}", modules.display()))?;
        let release = entries.flatten().next().ok_or_else(|| format!("{}: no modules", modules.display()))?;
        Ok(Self { program: unpacked.join("usr/bin/linux.uml"), modules: release.path() })
    }
}

fn fetch(dir: &Path, unpacked: &Path) -> Result<()> {
    let work = dir.join(format!("{PACKAGE}.{}", std::process::id()));
    let download = work.join("download");
    fs::create_dir_all(&download).map_err(|e| format!("{}: {e}", download.display()))?;
    // apt fetches as a user of its own where it can, who must be let in.
    let get = || run::output(command("apt-get").args(["-qq", "download", PACKAGE]).current_dir(&download));
    // On a new machine there are no lists of packages yet.
    get().or_else(|_| run::output(command("apt-get").args(["-qq", "update"])).and_then(|_| get()))?;
    let entries = fs::read_dir(&download).map_err(|e| format!("{}: {e}", download.display()))?;
    let deb = entries.flatten().find(|entry| entry.file_name().to_string_lossy().ends_with(".deb"));
    let deb = deb.ok_or_else(|| format!("apt-get download {PACKAGE} brought no package"))?;
    let root = work.join("root");
    run::output(command("dpkg-deb").arg("--extract").arg(deb.path()).arg(&root))?;
    fs::rename(&root, unpacked).map_err(|e| format!("{}: {e}", unpacked.display()))?;
    run::remove_tree(&work)
}
