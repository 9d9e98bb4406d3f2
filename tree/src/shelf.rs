//! Directories that appear whole and vanish at once, whatever happens on the way.
//!
//! ```text
//! root/layers/NAME      whole
//! root/staging/…        being made, and held by flock by whoever makes it
//! root/removing/…       being deleted, and held by flock by whoever deletes it
//! ```
//!
//! What nobody holds in `staging` and `removing` was left by a crash, and [`Shelf::open`] deletes it. Many processes may
//! have one shelf open.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{remove, remove_children};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A directory of directories that appear whole and vanish at once.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
}

impl Shelf {
    /// Opens the shelf in `root`, which exists, and deletes what a crash left.
    pub fn open(root: &Path) -> io::Result<Self> {
        let shelf = Self { root: root.to_owned() };
        for part in ["layers", "staging", "removing"] {
            match private_dir(&root.join(part)) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        for part in ["staging", "removing"] {
            for entry in fs::read_dir(root.join(part))? {
                clear_if_left(&entry?.path())?;
            }
        }
        Ok(shelf)
    }

    /// Where the directory of this name is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    /// The names of all directories, in no order.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.root.join("layers"))?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Begins a directory. It is deleted again unless it is [published](Staged::publish).
    pub fn stage(&self, name: &str) -> io::Result<Staged> {
        loop {
            let path = self.fresh("staging", name);
            match private_dir(&path) {
                // A process of another pid namespace has this number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            // Before the lock, whoever opened the shelf may have taken the directory for a left one.
            let held = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                held => held?,
            };
            held.lock()?;
            if same(&held, &path)? {
                return Ok(Staged { shelf: self.clone(), name: name.to_owned(), path, held });
            }
        }
    }

    /// Removes a directory: at once to whoever looks, in time from the disk. `false`: there is none.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        let path = self.path(name);
        let held = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            held => held?,
        };
        held.lock()?;
        let away = self.fresh("removing", name);
        match fs::rename(&path, &away) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            renamed => renamed?,
        }
        delete(&held, &away)?;
        Ok(true)
    }

    fn fresh(&self, part: &str, name: &str) -> PathBuf {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.root.join(part).join(format!("{name}.{}.{number}", process::id()))
    }
}

/// A directory that is being made.
#[derive(Debug)]
pub struct Staged {
    shelf: Shelf,
    name: String,
    path: PathBuf,
    held: File,
}

impl Staged {
    /// Where it is until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the directory in its place, for all to see. Fails with `AlreadyExists` where there is one, and it is deleted
    /// then.
    pub fn publish(self) -> io::Result<()> {
        let place = self.shelf.path(&self.name);
        Ok(renameat_with(CWD, &self.path, CWD, &place, RenameFlags::NOREPLACE)?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone from here once it is published. What cannot be deleted now is deleted by the next open.
        if same(&self.held, &self.path).unwrap_or(false) {
            let _ = delete(&self.held, &self.path);
        }
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn same(held: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(now) => Ok(now.ino() == held.metadata()?.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn clear_if_left(path: &Path) -> io::Result<()> {
    let held = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        held => held?,
    };
    match held.try_lock() {
        // Between the open and the lock its maker may have published it, or another deleted it.
        Ok(()) if same(&held, path)? => delete(&held, path),
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

fn delete(held: &File, path: &Path) -> io::Result<()> {
    remove_children(held.as_fd())?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok(remove(File::open(parent)?.as_fd(), name.as_encoded_bytes())?)
}
