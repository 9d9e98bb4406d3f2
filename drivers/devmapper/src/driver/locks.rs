//! Who works in a root: several processes may, and change it one after the other.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use mica_core::{Error, Result};

/// Held by every driver that has the root open, however its process ends.
#[derive(Debug)]
pub(crate) struct Presence {
    file: File,
    alone: bool,
}

impl Presence {
    /// Where nobody else has the root open, all others wait until [`share`](Self::share).
    pub(crate) fn begin(root: &Path) -> Result<Self> {
        let begin = || {
            let file = open(root, "users")?;
            let alone = match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            if !alone {
                file.lock_shared()?;
            }
            Ok(Self { file, alone })
        };
        begin().map_err(failed(root))
    }

    /// Nobody else has the root open, or will before [`share`](Self::share).
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    pub(crate) fn share(&mut self, root: &Path) -> Result<()> {
        if self.alone {
            self.file.lock_shared().map_err(failed(root))?;
            self.alone = false;
        }
        Ok(())
    }
}

/// The lock under which the pool and the files are changed together. Whoever waits for anything else lets go of it first.
#[derive(Debug)]
pub(crate) struct Guard(#[allow(dead_code, reason = "held until it is dropped")] File);

impl Guard {
    pub(crate) fn take(root: &Path) -> Result<Self> {
        let lock = || {
            let file = open(root, "lock")?;
            file.lock()?;
            Ok(file)
        };
        lock().map(Self).map_err(failed(root))
    }
}

fn open(root: &Path, name: &str) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).open(root.join(name))
}

fn failed(root: &Path) -> impl FnOnce(io::Error) -> Error {
    Error::io(move || format!("lock '{}'", root.display()))
}
