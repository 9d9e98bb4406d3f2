//! What a driver may leave behind in the kernel and on disk, and must not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::outcome::{Doing, Verdict};
use crate::room::Room;

/// What there is of a driver outside its own memory, each thing as a line for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Mount points below the room.
    pub(crate) mounts: BTreeSet<String>,
    /// Loop devices on files of the room, and device-mapper devices on those.
    pub(crate) devices: BTreeSet<String>,
    /// Open descriptors of this process, as `/proc` tells them, that name something below the room.
    pub(crate) descriptors: BTreeSet<String>,
    /// Everything in the driver's root.
    pub(crate) paths: BTreeSet<String>,
}

impl Leftovers {
    /// Looks at this moment.
    pub(crate) fn now(room: &Room<'_>) -> Verdict<Self> {
        let mut paths = BTreeSet::new();
        collect_paths(&room.driver_root(), &mut paths)?;
        let room = room.path();
        let mounts = mounts_below(room)?.iter().map(|path| path.display().to_string()).collect();
        Ok(Self { mounts, devices: devices(room), descriptors: descriptors(room)?, paths })
    }

    /// Fails where there is something that was not there before.
    pub(crate) fn expect_none_since(&self, before: &Self) -> Verdict {
        let kinds = [
            ("mount", &self.mounts, &before.mounts),
            ("device", &self.devices, &before.devices),
            ("descriptor", &self.descriptors, &before.descriptors),
            ("path", &self.paths, &before.paths),
        ];
        for (kind, now, then) in kinds {
            none_new(kind, now, then)?;
        }
        Ok(())
    }
}

/// Fails where `now` has something that `then` had not.
pub(crate) fn none_new(kind: &str, now: &BTreeSet<String>, then: &BTreeSet<String>) -> Verdict {
    let new: Vec<&str> = now.difference(then).map(String::as_str).collect();
    crate::outcome::ensure!(new.is_empty(), "left behind, each a {kind}: {}", new.join(", "));
    Ok(())
}

/// Mount points below a directory, in the order in which they were made.
pub(crate) fn mounts_below(dir: &Path) -> Verdict<Vec<PathBuf>> {
    let entries = mica_mount::table::below(dir).doing(|| "read the mount table")?;
    Ok(entries.into_iter().map(|entry| entry.at).collect())
}

/// Detaches everything that is mounted below a directory, the last made first.
pub(crate) fn unmount_below(dir: &Path) {
    for point in mounts_below(dir).unwrap_or_default().iter().rev() {
        let _ = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

fn devices(room: &Path) -> BTreeSet<String> {
    let blocks = || fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut ours: BTreeSet<String> = blocks()
        .filter(|block| {
            let backing = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
            Path::new(backing.trim()).starts_with(room)
        })
        .map(|block| block.file_name().to_string_lossy().into_owned())
        .collect();
    loop {
        let stacked: Vec<String> = blocks()
            .filter(|block| {
                let slaves = fs::read_dir(block.path().join("slaves")).into_iter().flatten().flatten();
                slaves.into_iter().any(|slave| ours.contains(&*slave.file_name().to_string_lossy()))
            })
            .map(|block| block.file_name().to_string_lossy().into_owned())
            .filter(|name| !ours.contains(name))
            .collect();
        if stacked.is_empty() {
            return ours;
        }
        ours.extend(stacked);
    }
}

/// What the open descriptors name, each with a number, for one thing may be open many times.
fn descriptors(room: &Path) -> Verdict<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd").doing(|| "list /proc/self/fd")?.flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target.starts_with(room) {
            let mut times = 1;
            while !found.insert(format!("{} ({times})", target.display())) {
                times += 1;
            }
        }
    }
    Ok(found)
}

fn collect_paths(dir: &Path, paths: &mut BTreeSet<String>) -> Verdict {
    for entry in fs::read_dir(dir).doing(|| format!("list {}", dir.display()))? {
        let entry = entry.doing(|| format!("list {}", dir.display()))?;
        paths.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_paths(&entry.path(), paths)?;
        }
    }
    Ok(())
}
