//! The guest's kernel: a Debian package, fetched and verified by apt, unpacked and not installed.

use crate::Result;
use crate::unpacked::unpack;
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
            unpack(&[PACKAGE], &unpacked)?;
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
