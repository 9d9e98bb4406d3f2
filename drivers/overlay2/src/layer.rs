//! The directory of one layer.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mica_core::{Error, LayerId, Result};
use rustix::buffer::spare_capacity;

/// The mode of a detached layer's root until the tarball sets one: one that no tarball has.
const UNSET: u32 = 0o3700;

/// What a layer is, by the marks in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Writable,
    Detached,
    Committed,
}

/// The directory of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    id: LayerId,
    dir: PathBuf,
}

impl Layer {
    /// Names a layer that the caller knows to be there.
    pub(crate) fn at(dir: PathBuf, id: &LayerId) -> Self {
        Self { id: id.clone(), dir }
    }

    pub(crate) fn open(dir: PathBuf, id: &LayerId) -> Result<Self> {
        let layer = Self::at(dir, id);
        match fs::symlink_metadata(layer.diff()) {
            Ok(diff) if diff.is_dir() => Ok(layer),
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(layer.failed("open")(e)),
            _ if layer.dir.exists() => Err(Error::Corrupt {
                what: format!("layer '{id}'"),
                reason: "it has no directory 'diff'; remove it".to_owned(),
            }),
            _ => Err(Error::no_layer(id)),
        }
    }

    /// Makes an empty layer in an existing directory.
    pub(crate) fn make(dir: &Path, id: &LayerId) -> Result<Self> {
        let layer = Self::at(dir.to_owned(), id);
        fs::create_dir(layer.diff())
            .and_then(|()| set_mode(&layer.diff(), 0o755))
            .map_err(layer.failed("create"))?;
        Ok(layer)
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.dir.join("diff")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn committed(&self) -> PathBuf {
        self.dir.join("committed")
    }

    fn detached(&self) -> PathBuf {
        self.dir.join("detached")
    }

    pub(crate) fn open_diff(&self) -> Result<File> {
        File::open(self.diff()).map_err(self.failed("open"))
    }

    pub(crate) fn state(&self) -> Result<State> {
        let there = |path: PathBuf| path.try_exists().map_err(self.failed("look at"));
        if there(self.committed())? {
            return Ok(State::Committed);
        }
        Ok(if there(self.detached())? { State::Detached } else { State::Writable })
    }

    /// The layer, if it is committed.
    pub(crate) fn frozen(self) -> Result<Self> {
        if self.state()? == State::Committed { Ok(self) } else { Err(Error::writable(&self.id)) }
    }

    /// The layer, if it is not committed.
    pub(crate) fn writable(self) -> Result<Self> {
        if self.state()? == State::Committed { Err(Error::committed(&self.id)) } else { Ok(self) }
    }

    /// The layer, if it knows its parents.
    pub(crate) fn attached(self) -> Result<Self> {
        if self.state()? == State::Detached { Err(Error::detached(&self.id)) } else { Ok(self) }
    }

    /// Marks a new layer as one that does not know its parents.
    pub(crate) fn detach(&self) -> Result<()> {
        let marked = File::create_new(self.detached()).and_then(|_| set_mode(&self.diff(), UNSET));
        marked.map_err(self.failed("create"))
    }

    /// Takes over mode, owner, times and extended attributes of the parent's root, but not what overlayfs notes there.
    pub(crate) fn inherit(&self, parent: &Self) -> Result<()> {
        let (from, to) = (parent.open_diff()?, self.open_diff()?);
        let copied = mica_tree::copy_attributes(from.as_fd(), to.as_fd()).map_err(io::Error::from);
        copied.and_then(|()| forget_marks(&to)).map_err(self.failed("create"))
    }

    /// The same for a detached layer, unless its tarball said what its root is like.
    pub(crate) fn inherit_if_unset(&self, parent: &Self) -> Result<()> {
        if self.root_is_unset()? { self.inherit(parent) } else { Ok(()) }
    }

    fn root_is_unset(&self) -> Result<bool> {
        let root = fs::metadata(self.diff()).map_err(self.failed("look at"))?;
        Ok(root.mode() & 0o7777 == UNSET)
    }

    /// Freezes the layer, in one step.
    pub(crate) fn freeze(&self) -> Result<()> {
        let failed = || self.failed("commit");
        if self.state()? != State::Detached {
            return File::create_new(self.committed()).map(drop).map_err(failed());
        }
        if self.root_is_unset()? {
            set_mode(&self.diff(), 0o755).map_err(failed())?;
        }
        fs::rename(self.detached(), self.committed()).map_err(failed())
    }

    /// The scratch space, made where it is missing.
    pub(crate) fn make_work(&self) -> Result<File> {
        match fs::DirBuilder::new().mode(0o700).create(self.work()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(self.failed("mount")(e)),
            _ => File::open(self.work()).map_err(self.failed("mount")),
        }
    }

    pub(crate) fn remove_work(&self) -> Result<()> {
        let dir = File::open(&self.dir).map_err(self.failed("open"))?;
        mica_tree::remove(dir.as_fd(), b"work").map_err(io::Error::from).map_err(self.failed("release"))
    }

    /// Whether nothing was changed yet.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let mut entries = fs::read_dir(self.diff()).map_err(self.failed("open"))?;
        Ok(entries.next().is_none())
    }

    pub(crate) fn failed(&self, doing: &str) -> impl FnOnce(io::Error) -> Error {
        let text = format!("{doing} layer '{}'", self.id);
        Error::io(move || text)
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes the attributes that overlayfs keeps for itself: what they say is true of one layer only.
fn forget_marks(dir: &File) -> io::Result<()> {
    // The kernel allows 64 KiB for the list of names (xattr(7)).
    let mut names = Vec::with_capacity(1 << 16);
    rustix::fs::flistxattr(dir, spare_capacity(&mut names))?;
    for name in names.split(|&byte| byte == 0) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            rustix::fs::fremovexattr(dir, name)?;
        }
    }
    Ok(())
}
