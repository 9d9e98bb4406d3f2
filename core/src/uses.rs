//! Who uses a layer, by locks on files: `ID.use` is held by every user, `ID.gate` for the moment of mounting and of letting
//! go for reading.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::{Error, LayerId, Result};

/// The directory of the locks of one driver's layers.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    dir: PathBuf,
}

impl Uses {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io(|| format!("create '{}'", dir.display())))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// For reading, beside others who do. Fails with `InUse` where somebody has it alone.
    pub(crate) fn shared(&self, id: &LayerId) -> Result<Lock> {
        self.lock(id, Wait::Shared)
    }

    /// For writing, freezing and removing. Fails with `InUse` where anybody has it.
    pub(crate) fn alone(&self, id: &LayerId) -> Result<Lock> {
        self.lock(id, Wait::Never)
    }

    /// For the moment in which readers come or go, after those who are at it.
    pub(crate) fn gate(&self, id: &LayerId) -> Result<Lock> {
        Lock::take(&self.gate_path(id), Wait::Long)
    }

    /// Removes the files of a layer that is gone. The caller has it alone.
    pub(crate) fn forget(&self, id: &LayerId) -> Result<()> {
        for path in [self.gate_path(id), self.use_path(id)] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(|| format!("remove '{}'", path.display()))(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lock(&self, id: &LayerId, wait: Wait) -> Result<Lock> {
        let path = self.use_path(id);
        Lock::take(&path, wait).map_err(|error| match error {
            Error::InUse { .. } => Error::InUse { what: format!("layer '{id}'"), by: holders(&path) },
            other => other,
        })
    }

    fn use_path(&self, id: &LayerId) -> PathBuf {
        self.dir.join(format!("{id}.use"))
    }

    fn gate_path(&self, id: &LayerId) -> PathBuf {
        self.dir.join(format!("{id}.gate"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Shared, or fail at once.
    Shared,
    /// Alone, or fail at once.
    Never,
    /// Alone, after those who hold it for a moment.
    Long,
}

/// A lock that is held. Dropping it unlocks, and does not wait for duplicates of the descriptor to be closed: a child that
/// another thread is just starting has one until it executes its program.
#[derive(Debug)]
pub(crate) struct Lock(Option<File>);

impl Lock {
    /// Locks the file at `path`, which is made where it is missing.
    fn take(path: &Path, wait: Wait) -> Result<Self> {
        let doing = || format!("lock '{}'", path.display());
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(Error::io(doing))?;
            let locked = match wait {
                Wait::Shared => file.try_lock_shared(),
                Wait::Never => file.try_lock(),
                Wait::Long => file.lock().map_err(TryLockError::Error),
            };
            match locked {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::InUse { what: doing(), by: String::new() });
                }
                Err(TryLockError::Error(e)) => return Err(Error::io(doing)(e)),
            }
            let lock = Self(Some(file));
            // Whoever removes the layer removes the file under its lock; a lock on a removed file excludes nobody.
            let inode = lock.0.as_ref().map(File::metadata).transpose().map_err(Error::io(doing))?;
            if fs::metadata(path).is_ok_and(|now| inode.is_some_and(|inode| now.ino() == inode.ino())) {
                return Ok(lock);
            }
        }
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.0.as_ref()
    }

    /// Closes this descriptor, and leaves the lock to whoever has a duplicate.
    pub(crate) fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Closing it, which follows, unlocks too where this fails.
            let _ = file.unlock();
        }
    }
}

/// How often the list of locks is read for one that must be in it. The holder may also just have let go.
const READINGS: usize = 8;

/// The processes that hold a lock on this file, by what the kernel says in `/proc/locks`.
fn holders(path: &Path) -> String {
    let inode = fs::metadata(path).map(|m| m.ino()).unwrap_or_default();
    // The kernel writes the list a page at a time, and locks that come and go in between move others past the reader.
    for _ in 0..READINGS {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let pids: Vec<&str> = locks.lines().filter_map(|line| holder(line, inode)).collect();
        match pids.as_slice() {
            [] => {}
            [pid] => return format!("process {pid}"),
            many => return format!("processes {}", many.join(", ")),
        }
    }
    "another process".to_owned()
}

/// The process of a line such as `3: FLOCK  ADVISORY  WRITE 703 fe:00:1835022 0 EOF`, if it is about this inode.
fn holder(line: &str, inode: u64) -> Option<&str> {
    let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK");
    let pid = fields.nth(3)?;
    let file = fields.next()?;
    (file.rsplit(':').next()?.parse() == Ok(inode)).then_some(pid)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_kernels_list_of_locks_names_the_holder() {
        let line = "3: FLOCK  ADVISORY  WRITE 703 fe:00:1835022 0 EOF";
        assert_eq!(holder(line, 1_835_022), Some("703"));
        assert_eq!(holder(line, 7), None);
        assert_eq!(holder("1: POSIX  ADVISORY  WRITE 12 fe:00:1835022 0 EOF", 1_835_022), None);
        assert_eq!(holder("2: -> FLOCK  ADVISORY  WRITE 9 fe:00:5 0 EOF", 5), Some("9"));
    }

    #[test]
    fn a_lock_on_a_removed_file_is_taken_again_on_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.use");
        let first = Lock::take(&path, Wait::Never).unwrap();
        assert!(matches!(Lock::take(&path, Wait::Shared), Err(Error::InUse { .. })));
        assert_eq!(holders(&path), format!("process {}", std::process::id()));
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::take(&path, Wait::Long).map(|lock| lock.file().unwrap().metadata().unwrap().ino())
        });
        fs::remove_file(&path).unwrap();
        drop(first);
        let inode = waiting.join().unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn the_holder_is_named_while_other_locks_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let take = |name: &str| Lock::take(&dir.path().join(name), Wait::Never).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let others: Vec<Lock> = (0..200).map(|number| take(&format!("other-{number}"))).collect();
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _moving: Vec<Lock> =
                        (0..50).map(|number| take(&format!("moving-{number}"))).collect();
                }
            });
            let _held = take("x.use");
            let named = (0..200).map(|_| holders(&dir.path().join("x.use")));
            let named: Vec<String> = named.filter(|text| text == "another process").collect();
            is_over.store(true, Ordering::Relaxed);
            drop(others);
            assert_eq!(named.len(), 0);
        });
    }

    #[test]
    fn a_duplicate_in_a_child_that_is_being_started_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.use");
        let lock = Lock::take(&path, Wait::Never).unwrap();
        let duplicate = lock.file().unwrap().try_clone().unwrap();
        drop(lock);
        Lock::take(&path, Wait::Never).unwrap();
        drop(duplicate);
    }

    #[test]
    fn a_lock_that_was_handed_over_is_held_by_the_duplicate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.use");
        let lock = Lock::take(&path, Wait::Never).unwrap();
        let duplicate = lock.file().unwrap().try_clone().unwrap();
        lock.hand_over();
        assert!(matches!(Lock::take(&path, Wait::Shared), Err(Error::InUse { .. })));
        drop(duplicate);
        Lock::take(&path, Wait::Shared).unwrap();
    }
}
