//! Where files come from and where they go, resolved once.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

use crate::{Error, Result};

/// What a path is meant relative to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base<'a> {
    /// The host, as this process sees it.
    Host,
    /// The root of a container: no link leads out of it.
    Root(BorrowedFd<'a>),
}

impl Base<'_> {
    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let Self::Root(root) = self else { return openat(CWD, path, flags, Mode::empty()) };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: something was renamed while the kernel walked past `..`; it says: try again (openat2(2)).
        for _ in 0..128 {
            match openat2(root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// An existing directory.
    pub(super) fn directory(&self, path: &str) -> Result<OwnedFd> {
        self.open(Path::new(path), OFlags::PATH | OFlags::DIRECTORY).map_err(failed(path))
    }
}

fn failed(path: &str) -> impl FnOnce(Errno) -> Error {
    let path = path.escape_debug().to_string();
    move |e| match e {
        Errno::NOENT => Error::no_such("path", path),
        e => Error::io(|| format!("open '{path}'"))(e.into()),
    }
}

fn file_type(dir: impl AsFd, name: &Path) -> rustix::io::Result<FileType> {
    let flags = if name.as_os_str().is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    Ok(FileType::from_raw_mode(statat(dir, name, flags)?.st_mode))
}

/// The directory above a path, and its last name; `None` for what ends in no name: `/`, `.`, `..`, `x/`.
fn split(path: &str) -> Option<(PathBuf, OsString)> {
    if path.ends_with('/') || path.ends_with("/.") || path == "." {
        return None;
    }
    let path = Path::new(path);
    let name = path.file_name()?.to_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Some((parent.unwrap_or(Path::new(".")).to_owned(), name))
}

/// What is copied.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) kind: OriginKind,
    name: Vec<u8>,
    pub(super) is_directory: bool,
}

#[derive(Debug)]
pub(super) enum OriginKind {
    /// This name in this directory.
    Named(OwnedFd, OsString),
    /// This directory itself.
    Directory(OwnedFd),
    /// What is in this directory.
    Contents(OwnedFd),
}

impl Origin {
    /// Finds what a path names. A link in its last place is itself what is copied, unless it is to be followed.
    pub(super) fn find(base: &Base<'_>, path: &str, follow: bool) -> Result<Self> {
        let wanted = if path.is_empty() { "/" } else { path };
        let name = last_name(wanted);
        let open_dir = || base.directory(wanted);
        if wanted.ends_with("/.") || wanted == "." {
            return Ok(Self { kind: OriginKind::Contents(open_dir()?), name, is_directory: true });
        }
        let Some((parent, last)) = split(wanted) else {
            return Ok(Self { kind: OriginKind::Directory(open_dir()?), name, is_directory: true });
        };
        if follow && base.open(Path::new(wanted), OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            return Ok(Self { kind: OriginKind::Directory(open_dir()?), name, is_directory: true });
        }
        let (parent, last) = if follow { followed(base, wanted)? } else { (parent, last) };
        let dir = base.open(&parent, OFlags::PATH | OFlags::DIRECTORY).map_err(failed(wanted))?;
        let is_directory = file_type(&dir, Path::new(&last)).map_err(failed(wanted))?.is_dir();
        Ok(Self { kind: OriginKind::Named(dir, last), name, is_directory })
    }

    /// What it is called, without the directories above.
    pub(super) fn name(&self) -> &[u8] {
        if matches!(self.kind, OriginKind::Contents(_)) { b"" } else { &self.name }
    }
}

/// Where a link to a file leads: its directory and name as the container has them.
fn followed(base: &Base<'_>, path: &str) -> Result<(PathBuf, OsString)> {
    let mut path = PathBuf::from(path);
    for _ in 0..40 {
        let (parent, last) = split(&path.to_string_lossy()).unwrap_or((path.clone(), OsString::from(".")));
        let text = path.to_string_lossy().into_owned();
        let dir = base.open(&parent, OFlags::PATH | OFlags::DIRECTORY).map_err(failed(&text))?;
        match rustix::fs::readlinkat(&dir, Path::new(&last), Vec::new()) {
            Ok(target) => path = parent.join(std::ffi::OsStr::from_bytes(target.as_bytes())),
            Err(_) => return Ok((parent, last)),
        }
    }
    Err(failed(&path.to_string_lossy())(Errno::LOOP))
}

fn last_name(path: &str) -> Vec<u8> {
    let name = Path::new(path).file_name();
    name.map_or_else(|| b".".to_vec(), |name| name.as_bytes().to_vec())
}

/// Where it goes.
#[derive(Debug)]
pub(super) struct Target {
    /// The directory.
    pub(super) directory: OwnedFd,
    /// The name in it; empty when what is in the origin goes there itself.
    pub(super) name: Vec<u8>,
}

impl Target {
    /// Docker's rules: into a directory that exists; in place of a file; else under a new name in a directory that
    /// exists.
    pub(super) fn find(base: &Base<'_>, path: &str, origin: &Origin) -> Result<Self> {
        let wanted = if path.is_empty() { "." } else { path };
        match base.open(Path::new(wanted), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(directory) => return Ok(Self { directory, name: origin.name().to_vec() }),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) if origin.is_directory => {
                return Err(Error::Invalid(format!("cannot copy a directory to the file '{wanted}'")));
            }
            Err(Errno::NOTDIR) => {}
            Err(e) => return Err(failed(wanted)(e)),
        }
        let stripped = wanted.trim_end_matches('/');
        if stripped.len() != wanted.len() && !origin.is_directory {
            return Err(Error::Invalid(format!("the destination directory '{wanted}' must exist")));
        }
        let (parent, name) = split(stripped)
            .ok_or_else(|| Error::Invalid(format!("'{wanted}' names no file that could be made")))?;
        let directory = base.directory(&parent.to_string_lossy())?;
        Ok(Self { directory, name: name.as_bytes().to_vec() })
    }
}
