//! Locks between processes: `flock` on small files. The kernel drops them with the process, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An exclusive lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Waits for the lock on this file, which is made where it is missing.
    pub fn wait(path: &Path) -> Result<Self> {
        Self::obtain(path, |file| file.lock().map(|()| true))?
            .ok_or_else(|| Error::Conflict(format!("'{}' is locked", path.display())))
    }

    /// Takes the lock unless another process or thread has it.
    pub fn now(path: &Path) -> Result<Option<Self>> {
        Self::obtain(path, try_lock)
    }

    /// Removes the file. Those who wait for it notice, and make it again.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io(|| format!("remove '{}'", self.path.display())))
    }

    fn obtain(path: &Path, lock: impl Fn(&File) -> std::io::Result<bool>) -> Result<Option<Self>> {
        let failed = || format!("lock '{}'", path.display());
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
            let file = file.map_err(Error::io(failed))?;
            if !lock(&file).map_err(Error::io(failed))? {
                return Ok(None);
            }
            // The file may have been removed under the lock that was waited for: a lock on it excludes nobody.
            let inode = file.metadata().map_err(Error::io(failed))?.ino();
            if fs::metadata(path).is_ok_and(|now| now.ino() == inode) {
                return Ok(Some(Self { path: path.to_owned(), _file: file }));
            }
        }
    }
}

/// A lock whose file goes with it: there are as many as there are layers, and few are held at a time.
#[derive(Debug)]
pub(crate) struct Passing(Option<Lock>);

impl Passing {
    /// Waits for the lock.
    pub(crate) fn wait(path: &Path) -> Result<Self> {
        Lock::wait(path).map(|lock| Self(Some(lock)))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // A file that stays does no harm: the next one who needs this lock removes it.
        let _ = self.0.take().map(Lock::remove);
    }
}

/// Whether the lock was taken.
pub(crate) fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let held = Lock::wait(&path).unwrap();
        assert!(Lock::now(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::now(&path).unwrap().is_some());
    }

    #[test]
    fn whoever_waited_for_a_removed_lock_gets_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let held = Lock::wait(&path).unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::wait(&path).unwrap()
        });
        held.remove().unwrap();
        let lock = waiting.join().unwrap();
        assert!(path.exists() && Lock::now(&path).unwrap().is_none());
        drop(lock);
    }
}
