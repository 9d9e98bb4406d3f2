//! Mounts whose owners are shifted.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use caps::CapSet;
use mica_core::mount::{IdMap, IdRange};
use mica_core::{Error, Result};
use nix::unistd::{Gid, Uid};
use rustix::process::DumpableBehavior;

use crate::Calls;
use crate::sys::{self, Attributes, Sleeper};

/// Shifts the owners that a detached mount shows. The kernel takes the shift as a user namespace, so one is made for it.
pub(crate) fn shift(mount: BorrowedFd<'_>, map: &IdMap, doing: &str) -> Result<()> {
    let namespace = user_namespace(map)?;
    let attributes = Attributes {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_fd().as_raw_fd() as u64,
        ..sys::UNCHANGED
    };
    sys::mount_setattr(mount, false, &attributes).map_err(|e| match e.raw_os_error() {
        Some(libc::EINVAL) => Error::Unavailable {
            reason: format!("{doing}: this file system has no id-mapped mounts on the running kernel"),
        },
        _ => crate::error::failed(format!("{doing}: map its ids"), e, ""),
    })
}

/// Refuses an id map where the system calls for it are missing.
pub(crate) fn need(calls: Calls, map: Option<&IdMap>) -> Result<()> {
    if map.is_none() || calls >= Calls::Trees {
        return Ok(());
    }
    Err(Error::Unavailable { reason: "id-mapped mounts need Linux 5.12".to_owned() })
}

/// Runs `work` on a thread of its own as the user and group that `map` makes of the root on disk, with every capability kept.
///
/// An overlay works in its upper directory as whoever mounted it, and the owner of what it makes there must be in
/// the map (`EOVERFLOW`, and a read-only mount, otherwise).
pub(crate) fn run_as_mapped_root<T: Send>(
    map: Option<&IdMap>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let dumpable = rustix::process::dumpable_behavior()? == DumpableBehavior::Dumpable;
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, || {
            if let Some(map) = map {
                become_mapped_root(map)?;
            }
            work()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
    });
    // A change of user makes the whole process undumpable (credentials(7)).
    if map.is_some() && dumpable {
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    }
    result
}

fn become_mapped_root(map: &IdMap) -> io::Result<()> {
    nix::unistd::setfsgid(Gid::from_raw(mapped_root(&map.gids)));
    nix::unistd::setfsuid(Uid::from_raw(mapped_root(&map.uids)));
    let all = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &all).map_err(io::Error::other)
}

fn mapped_root(ranges: &[IdRange]) -> u32 {
    let root = ranges.iter().find(|range| range.disk == 0).or(ranges.first());
    root.map_or(0, |range| range.tree)
}

/// A user namespace in which the ids on disk are inside, and those in the tree outside.
fn user_namespace(map: &IdMap) -> Result<File> {
    let sleeper = Sleeper::start().map_err(Error::io(|| "make a user namespace for an id map"))?;
    let proc = format!("/proc/{}", sleeper.pid());
    for (file, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        let lines = lines(ranges);
        fs::write(format!("{proc}/{file}"), &lines)
            .map_err(Error::io(|| format!("use '{}' as an id map", lines.trim_end().replace('\n', ", "))))?;
    }
    File::open(format!("{proc}/ns/user")).map_err(Error::io(|| "open the user namespace of an id map"))
}

/// The ranges as `/proc/PID/uid_map` reads them. Where none are given, ids stay what they are.
fn lines(ranges: &[IdRange]) -> String {
    if ranges.is_empty() {
        return "0 0 4294967295\n".to_owned();
    }
    ranges.iter().fold(String::new(), |mut text, IdRange { disk, tree, count }| {
        let _ = writeln!(text, "{disk} {tree} {count}");
        text
    })
}
