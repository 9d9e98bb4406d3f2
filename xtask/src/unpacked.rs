//! Debian packages that are fetched and verified by apt, unpacked below `target`, and not installed.

use crate::Result;
use crate::run::{self, command};
use std::fs;
use std::path::Path;

/// Docker's programs, for the test that adopts what they wrote. Installed, they would start a daemon, which changes the host's
/// firewall.
pub(crate) const DOCKER: [&str; 2] = ["docker.io", "containerd"];

/// Unpacks these packages together into the directory `unpacked`, which is not there yet, and comes to be there whole.
pub(crate) fn unpack(packages: &[&str], unpacked: &Path) -> Result<()> {
    let work = unpacked.with_extension(std::process::id().to_string());
    let download = work.join("download");
    fs::create_dir_all(&download).map_err(|e| format!("{}: {e}", download.display()))?;
    // apt fetches as a user of its own where it can, who must be let in.
    let get = || {
        let mut get = command("apt-get");
        run::output(get.args(["-qq", "download"]).args(packages).current_dir(&download))
    };
    // On a new machine there are no lists of packages yet.
    get().or_else(|_| run::output(command("apt-get").args(["-qq", "update"])).and_then(|_| get()))?;
    let entries = fs::read_dir(&download).map_err(|e| format!("{}: {e}", download.display()))?;
    let root = work.join("root");
    let debs = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".deb"));
    let mut count = 0;
    for deb in debs {
        run::output(command("dpkg-deb").arg("--extract").arg(deb.path()).arg(&root))?;
        count += 1;
    }
    if count != packages.len() {
        return Err(format!("apt-get download {} brought {count} packages", packages.join(" ")));
    }
    fs::rename(&root, unpacked).map_err(|e| format!("{}: {e}", unpacked.display()))?;
    run::remove_tree(&work)
}
