//! What a process holds by its mount namespace.

use std::path::Path;

use mica_core::{Error, Result};
use nix::sched::CloneFlags;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::table;

/// Gives this process, which has one thread, a mount namespace of its own, in which nothing is mounted but `/` and what is
/// mounted at exactly the paths of `kept`. Files and directories that are open can be used as before.
///
/// For a process that lives long: every mount of its namespace lives as long as it does, whoever unmounts it elsewhere.
pub fn keep_only(kept: &[&Path]) -> Result<()> {
    let doing = || "let go of the mounts of others";
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|e| Error::io(doing)(e.into()))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|e| Error::io(doing)(e.into()))?;
    for entry in table::all()? {
        if entry.at != Path::new("/") && !kept.contains(&entry.at.as_path()) {
            // One that lay below another is gone with that, and one that is covered is held, which does no worse than before.
            let _ = rustix::mount::unmount(&entry.at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
    Ok(())
}
