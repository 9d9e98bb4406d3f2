//! Whether a Docker is at work in a data root.

use std::fs::{self, File, TryLockError};

use mica_mount::table;

use super::root::OldRoot;
use crate::{Error, Result};

/// What dockerd holds by `flock` for as long as it lives (bbolt; moby's volume/service/store.go).
const DATABASE: &str = "volumes/metadata.db";
/// Where dockerd writes its process id, and the root that it has, unless it is told others.
const PID_FILES: [&str; 2] = ["/run/docker.pid", "/var/run/docker.pid"];
const USUAL_ROOT: &str = "/var/lib/docker";

/// Keeps Docker out of a root: one that is started meanwhile does not get its database.
#[derive(Debug)]
pub(super) struct Quiet {
    _database: Option<File>,
}

/// Makes sure that no Docker works in the root. With `force` it goes on where one does, and says so.
pub(super) fn make_sure(old: &OldRoot, force: bool) -> Result<(Quiet, Option<String>)> {
    let database = old.file(DATABASE)?;
    let Some(why) = reason(old, database.as_ref())? else {
        return Ok((Quiet { _database: database }, None));
    };
    if !force {
        return Err(Error::Conflict(format!(
            "{why}; stop it first, or take --force: then what its containers write meanwhile comes in part"
        )));
    }
    Ok((Quiet { _database: None }, Some(format!("{why}; what its containers write now comes in part"))))
}

fn reason(old: &OldRoot, database: Option<&File>) -> Result<Option<String>> {
    let place = old.path().display();
    if let Some(database) = database {
        match database.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Some(format!("a Docker works in '{place}'"))),
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(|| format!("lock '{}'", old.shown(DATABASE)))(error));
            }
        }
    }
    let running = table::below(old.path())?;
    if let Some(mount) = running.iter().find(|mount| matches!(mount.fstype.as_str(), "overlay" | "aufs")) {
        return Ok(Some(format!(
            "a container of '{place}' runs: its files are mounted at '{}'",
            mount.at.display()
        )));
    }
    let daemon = PID_FILES.iter().find_map(|file| living(file));
    Ok(daemon
        .filter(|(_, words)| has_root(words, old))
        .map(|(pid, _)| format!("a Docker works in '{place}': it is process {pid}")))
}

/// The dockerd that a file names, if it lives: its process id and its command line.
fn living(file: &str) -> Option<(u32, Vec<String>)> {
    let pid: u32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        words.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let program = words.first()?.rsplit('/').next()?;
    // The pid may be another's by now. Before 17.06 the daemon was a verb of the client.
    matches!(program, "dockerd" | "docker" | "docker-current").then_some((pid, words))
}

/// Whether a command line names this root, or none where it is the usual one.
fn has_root(words: &[String], old: &OldRoot) -> bool {
    let flags = ["--data-root", "--graph", "-g"];
    let named = words.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
        Some((flag, root)) if flags.contains(&flag) => Some(root),
        None if flags.contains(&word.as_str()) => words.get(at + 1).map(String::as_str),
        _ => None,
    });
    let root = named.unwrap_or(USUAL_ROOT);
    fs::canonicalize(root).is_ok_and(|root| root == old.path())
}
