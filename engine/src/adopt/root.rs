//! The data root of an old Docker, through a mount that nobody can write to: not even a time of reading is left in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use mica_core::mount::Bind;
use mica_core::{MountSpec, Mounts, WhiteoutForm};
use mica_mount::{Tree, table};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::format::PLACES;
use crate::{Engine, Error, Result};

/// Longer ones than this are no names, ids or digests.
const MAX_LINE: u64 = 4096;

/// An old data root.
#[derive(Debug)]
pub(super) struct OldRoot {
    path: PathBuf,
    tree: Tree,
}

impl OldRoot {
    /// Opens the root at `dir`. Nothing of it may be in the engine's own, nor the other way round.
    pub(super) fn open(engine: &Engine, dir: &Path) -> Result<Self> {
        let path = dir.canonicalize().map_err(Error::io(|| format!("open '{}'", dir.display())))?;
        if !path.is_dir() {
            return Err(Error::Invalid(format!("'{}' is no directory", path.display())));
        }
        let own = engine.root().path();
        if own.starts_with(&path) || path.starts_with(own) {
            return Err(Error::Invalid(format!(
                "'{}' and the data root '{}' are in each other; name another --root",
                path.display(),
                own.display()
            )));
        }
        let mounted = table::below(&path)?;
        let is_mounted = |place: &&str| mounted.iter().any(|mount| mount.at == path.join(place));
        let bind = |target: &str| {
            let (source, target) = (path.join(target), target.into());
            MountSpec::Bind(Bind { source, target, read_only: true, id_map: None })
        };
        let specs = std::iter::once("").chain(PLACES.into_iter().filter(is_mounted)).map(bind).collect();
        let tree = engine.mounter().open(&Mounts { specs, whiteouts: WhiteoutForm::Merged })?;
        Ok(Self { path, tree })
    }

    /// Where it is; without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where something in it is, for people.
    pub(super) fn shown(&self, place: &str) -> String {
        self.path.join(place).display().to_string()
    }

    /// The directory at this place; `None` where there is none.
    pub(super) fn directory(&self, place: &str) -> Result<Option<OwnedFd>> {
        self.at(place, OFlags::DIRECTORY)
    }

    /// The regular file at this place; `None` where there is none.
    pub(super) fn file(&self, place: &str) -> Result<Option<File>> {
        // Should it be a pipe, this does not wait for a writer.
        let Some(file) = self.at(place, OFlags::NONBLOCK | OFlags::NOCTTY)? else { return Ok(None) };
        let stat = fstat(&file).map_err(|e| self.failed(place)(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            return Ok(Some(file.into()));
        }
        Err(self.failed(place)(io::Error::other("it is no regular file")))
    }

    /// The content of a file of at most `limit` bytes; `None` where there is none.
    pub(super) fn read(&self, place: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(place)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(self.failed(place))?;
        if content.len() as u64 > limit {
            return Err(Error::Invalid(format!("'{}' is longer than {limit} bytes", self.shown(place))));
        }
        Ok(Some(content))
    }

    /// The text of a file with one word in it; `None` where there is none.
    pub(super) fn word(&self, place: &str) -> Result<Option<String>> {
        let content = self.read(place, MAX_LINE)?;
        Ok(content.map(|content| String::from_utf8_lossy(&content).trim().to_owned()))
    }

    /// The names in a directory, in order; none where there is none. Docker's own are all UTF-8.
    pub(super) fn names(&self, place: &str) -> Result<Vec<String>> {
        let Some(directory) = self.directory(place)? else { return Ok(Vec::new()) };
        let failed = |e: Errno| self.failed(place)(e.into());
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Opens through no link, and out of no root.
    fn at(&self, place: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(self.tree.root(), place, flags, Mode::empty(), resolve) {
                // openat2(2): a rename elsewhere raced with the walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(Errno::LOOP) => {
                    return Err(self.failed(place)(io::Error::other("a symbolic link is on the way")));
                }
                opened => return opened.map(Some).map_err(|e| self.failed(place)(e.into())),
            }
        }
    }

    fn failed(&self, place: &str) -> impl FnOnce(io::Error) -> Error {
        let doing = format!("read '{}'", self.shown(place));
        move |source| Error::Io { doing, source }
    }
}

/// A path that leads to an open directory, in this process and while it is open.
pub(super) fn path_of(directory: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()))
}
