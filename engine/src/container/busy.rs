//! Who has a container: a lock in its directory, held by its supervisor while it lives and by whoever changes it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::state::{State, Status};
use crate::{Error, Result};

/// How long a command waits for one that is about to end. Docker's commands wait for each other; more than this is
/// no moment any more, and who waits wants to know for what.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// The container is this process's to change, and that of every process it was forked to, until the last of them
/// drops it.
#[derive(Debug)]
pub(crate) struct Busy {
    file: File,
}

impl Busy {
    /// Takes the container in `dir`, called `name`. `doing` completes "container w is …" for those who come meanwhile.
    /// Waits a moment for another command to end; one that runs is refused at once.
    pub(crate) fn take(dir: &Path, name: &str, doing: &str) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(mut busy) = Self::try_take(dir, name)? {
                busy.note(doing)?;
                return Ok(busy);
            }
            let is = match State::read(dir)?.status {
                Status::Running => Some("running; stop it first"),
                Status::Paused => Some("paused; unpause it, or stop it first"),
                Status::Created | Status::Starting | Status::Exited => None,
            };
            if let Some(is) = is {
                return Err(Error::Conflict(format!("container {name} is {is}")));
            }
            if Instant::now() >= deadline {
                return Err(Error::Conflict(format!("container {name} {}", holder(dir))));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes the container unless somebody has it.
    pub(crate) fn try_take(dir: &Path, name: &str) -> Result<Option<Self>> {
        Self::try_lock(dir, name, File::try_lock)
    }

    /// Keeps the container from being changed, beside others who do no more than that, unless somebody has it.
    pub(super) fn try_share(dir: &Path, name: &str) -> Result<Option<Self>> {
        Self::try_lock(dir, name, File::try_lock_shared)
    }

    fn try_lock(
        dir: &Path,
        name: &str,
        lock: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Option<Self>> {
        let path = dir.join("lock");
        let failed = || format!("lock '{}'", path.display());
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::no_such("container", name)),
            other => other.map_err(Error::io(failed))?,
        };
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::io(failed)(e)),
        }
        // It may have been removed since it was opened: nobody else would find this file.
        let inode = file.metadata().map_err(Error::io(failed))?.ino();
        match path.metadata() {
            Ok(now) if now.ino() == inode => Ok(Some(Self { file })),
            _ => Err(Error::no_such("container", name)),
        }
    }

    /// Says what this process does with the container.
    pub(crate) fn note(&mut self, doing: &str) -> Result<()> {
        let text = format!("{doing} by process {}\n", std::process::id());
        let mut write = || {
            self.file.rewind()?;
            self.file.set_len(0)?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(Error::io(|| "write to the lock of a container".to_owned()))
    }
}

/// What the holder of the lock says that it is doing.
pub(super) fn holder(dir: &Path) -> String {
    let mut text = String::new();
    // The holder may be about to write it, or be gone.
    let read = File::open(dir.join("lock")).and_then(|file| file.take(256).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(_), said) if !said.is_empty() => format!("is {said}; try again when that is done"),
        _ => "is in use by another process; try again when that is done".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_what_the_first_does() {
        let dir = tempfile::tempdir().unwrap();
        let busy = Busy::take(dir.path(), "w", "being started").unwrap();
        assert!(Busy::try_take(dir.path(), "w").unwrap().is_none());
        let text = holder(dir.path());
        assert_eq!(
            text,
            format!("is being started by process {}; try again when that is done", std::process::id())
        );
        drop(busy);
        assert!(Busy::try_take(dir.path(), "w").unwrap().is_some());
    }

    #[test]
    fn those_who_only_look_do_not_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let first = Busy::try_share(dir.path(), "w").unwrap().unwrap();
        let second = Busy::try_share(dir.path(), "w").unwrap().unwrap();
        drop(first);
        assert!(Busy::try_take(dir.path(), "w").unwrap().is_none());
        drop(second);
        let _busy = Busy::try_take(dir.path(), "w").unwrap().unwrap();
        assert!(Busy::try_share(dir.path(), "w").unwrap().is_none());
    }

    #[test]
    fn a_removed_container_is_no_longer_there_for_who_waited() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let text = Busy::try_take(&gone, "w").unwrap_err().to_string();
        assert_eq!(text, "no such container: w");
    }
}
