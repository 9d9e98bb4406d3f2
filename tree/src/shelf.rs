//! The directories of a driver's layers: they appear whole and vanish at once, whatever happens on the way.
//!
//! ```text
//! root/layers/ID        whole; a driver may have another name for `layers`
//! root/staging/…        being made, and held by flock by whoever makes it
//! root/removing/…       being deleted, and held by flock by whoever deletes it
//! ```
//!
//! What nobody holds in `staging` and `removing` was left by a crash, and [`Shelf::open`] deletes it. Many processes may
//! have one shelf open. The failpoints `shelf.create.filled`, `shelf.create.published` and `shelf.remove.renamed` stand
//! between the steps.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use mica_core::{Error, LayerId, Result, failpoint};
use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;

use crate::{remove, remove_children};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// The directory in which a driver keeps a directory for each layer.
#[derive(Debug)]
pub struct Shelf {
    path: PathBuf,
    /// The name of the directory that holds the layers.
    layers: &'static str,
    /// Opened before the first write, so that `sync` is told of every write-back error since (syncfs(2)).
    root: File,
    /// The first such error. The kernel tells it once, but what was lost stays lost.
    lost: OnceLock<String>,
}

impl Shelf {
    /// Opens the shelf in `root`, which exists, and deletes what a crash left.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_at(root, "layers")
    }

    /// The same, with another name for `layers`.
    pub fn open_at(root: &Path, layers: &'static str) -> Result<Self> {
        let opened = File::open(root).and_then(|file| make_parts(root, layers).map(|()| file));
        let file = opened.map_err(Error::io(|| format!("open '{}'", root.display())))?;
        Ok(Self { path: root.to_owned(), layers, root: file, lost: OnceLock::new() })
    }

    /// The directory that it is in.
    pub fn root(&self) -> &File {
        &self.root
    }

    /// Where the directory of this layer is, or would be.
    pub fn path(&self, id: &LayerId) -> PathBuf {
        self.path.join(self.layers).join(id.as_str())
    }

    /// The directory of this layer. Fails with `NotFound` where there is none.
    pub fn layer(&self, id: &LayerId) -> Result<PathBuf> {
        let path = self.path(id);
        if path.is_dir() { Ok(path) } else { Err(Error::no_layer(id)) }
    }

    /// All layers, in no order. Whatever else somebody put there is no layer.
    pub fn list(&self) -> Result<Vec<LayerId>> {
        let entries = fs::read_dir(self.path.join(self.layers));
        let entries: io::Result<Vec<_>> = entries.and_then(Iterator::collect);
        let entries = entries.map_err(Error::io(|| "list the layers"))?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    /// Makes the directory of a new layer, which nobody sees before `fill` is through with it. Where `fill` fails nothing is
    /// left. Fails with `AlreadyExists` where there is such a layer.
    pub fn create(&self, id: &LayerId, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let doing = || format!("create layer '{id}'");
        if self.path(id).exists() {
            return Err(Error::layer_exists(id));
        }
        let staged = self.stage(id.as_str()).map_err(Error::io(doing))?;
        fill(staged.path())?;
        failpoint::hit("shelf.create.filled").map_err(Error::io(doing))?;
        match renameat_with(CWD, staged.path(), CWD, self.path(id), RenameFlags::NOREPLACE) {
            // Another made it meanwhile.
            Err(Errno::EXIST) => return Err(Error::layer_exists(id)),
            published => published.map_err(io::Error::from).map_err(Error::io(doing))?,
        }
        failpoint::hit("shelf.create.published").map_err(Error::io(doing))
    }

    /// Begins a directory for scratch, or to be renamed into its place.
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
                return Ok(Staged { path, held });
            }
        }
    }

    /// Removes a layer: at once to whoever looks, in time from the disk. One that is not there counts as removed.
    pub fn remove(&self, id: &LayerId) -> Result<()> {
        match self.take_away(id) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::io(|| format!("remove layer '{id}'"))),
        }
    }

    /// The durability barrier of these layers, and of all others. Fails with `NotFound` for one that is not there, and from
    /// the first failure to write anything on.
    pub fn sync(&self, layers: &[LayerId]) -> Result<()> {
        layers.iter().try_for_each(|id| self.layer(id).map(drop))?;
        let doing = "sync the file system";
        if let Err(e) = syncfs(&self.root) {
            let error = io::Error::from(e);
            self.lost.get_or_init(|| error.to_string());
            return Err(Error::io(|| doing)(error));
        }
        match self.lost.get() {
            None => Ok(()),
            Some(lost) => Err(Error::driver(doing, format!("writes were lost before: {lost}"))),
        }
    }

    fn take_away(&self, id: &LayerId) -> io::Result<()> {
        let path = self.path(id);
        let held = File::open(&path)?;
        if let Err(TryLockError::Error(e)) = held.try_lock() {
            // Somebody else who holds it keeps it from others just as well.
            return Err(e);
        }
        let away = self.fresh("removing", id.as_str());
        fs::rename(&path, &away)?;
        failpoint::hit("shelf.remove.renamed")?;
        delete(&held, &away)
    }

    fn fresh(&self, part: &str, name: &str) -> PathBuf {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.path.join(part).join(format!("{name}.{}.{number}", process::id()))
    }
}

/// A directory that is deleted when this is dropped, unless it was renamed.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    held: File,
}

impl Staged {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted by the next open.
        if same(&self.held, &self.path).unwrap_or(false) {
            let _ = delete(&self.held, &self.path);
        }
    }
}

fn make_parts(root: &Path, layers: &str) -> io::Result<()> {
    for part in [layers, "staging", "removing"] {
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
    Ok(())
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
