//! Blocks and inodes that are set aside, so that a full disk can be cleared: what is removed is announced before, and an
//! announcement takes room.
//!
//! A removal that finds the disk full gives them back and uses them. The next command that finds room again, and nobody at
//! work who may still need them, sets them aside anew.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use mica_core::durable;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::root::{self, Root};
use crate::{Engine, Error, Result};

/// The bytes that are set aside: enough to announce the removal of the largest image, and to write the names of some
/// thousand others anew.
const BYTES: u64 = 256 << 10;

/// The files that are set aside: an intent, its directory, and the locks and records that are written on the way.
const FILES: u64 = 16;

impl Engine {
    /// Does what frees space, on a full disk in the room of the reserve.
    pub(crate) fn freeing<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.root().give_back_reserve()?;
        let done = act();
        // Where this fails, the next command tries again.
        let _ = self.root().keep_reserve();
        done
    }
}

impl Root {
    /// Sets the reserve aside unless it is. Without room for it, or on a file system that sets nothing aside, there is none.
    pub(crate) fn keep_reserve(&self) -> Result<()> {
        if fs::metadata(self.reserved_blocks()).is_ok_and(|meta| meta.blocks() * 512 >= BYTES) {
            return Ok(());
        }
        let _lock = self.lock()?;
        // Whoever has given it back may not be through yet.
        if !root::names(&self.intents())?.is_empty() {
            return Ok(());
        }
        self.set_aside().or_else(|_| root::remove_tree(&self.reserve()))
    }

    /// The blocks come last: where they are, all is there.
    fn set_aside(&self) -> io::Result<()> {
        root::make_directory(&self.reserve())?;
        for number in 1..FILES {
            File::create(self.reserve().join(number.to_string()))?;
        }
        let file = File::create(self.reserved_blocks())?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
    }

    /// Gives the reserve back where the disk has no room for as much again.
    pub(crate) fn give_back_reserve(&self) -> Result<()> {
        let failed = || format!("give back '{}'", self.reserve().display());
        if self.has_room().map_err(Error::io(failed))? {
            return Ok(());
        }
        match fs::remove_file(self.reserved_blocks()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::io(failed))?,
        }
        root::remove_tree(&self.reserve())?;
        // ext4 gives blocks out again when its journal has it that they are free.
        durable::sync_dir(self.path()).map_err(Error::io(failed))
    }

    fn has_room(&self) -> io::Result<bool> {
        let files = statvfs(self.path())?;
        // A file system that makes inodes as it needs them says that there are none at all.
        if files.f_files > 0 && files.f_ffree < FILES {
            return Ok(false);
        }
        let file = match OpenOptions::new().write(true).open(self.reserved_blocks()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        // By asking: what statvfs(3) calls free blocks is not all to be had.
        let asked = fallocate(&file, FallocateFlags::empty(), BYTES, BYTES);
        file.set_len(BYTES)?;
        Ok(!matches!(asked, Err(Errno::NOSPC | Errno::DQUOT)))
    }

    fn reserved_blocks(&self) -> PathBuf {
        self.reserve().join("blocks")
    }
}
