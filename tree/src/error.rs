//! Why a tree could not be handled, and where in it.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// The result of an operation on a tree.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A system call failed on one file of a tree.
#[derive(Debug, thiserror::Error)]
#[error("{doing} '{}': {source}", path.display())]
pub struct Error {
    /// What was being done, such as `copy`.
    pub doing: &'static str,
    /// The file, relative to the root of the tree; `.` for the root.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

impl From<Error> for io::Error {
    /// Keeps the kind, so that a full disk is still told from others.
    fn from(error: Error) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}

impl Error {
    /// The same failure, of a file in the directory of this name.
    pub(crate) fn below(mut self, name: &[u8]) -> Self {
        let name = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
        self.path = if self.path.as_os_str() == "." { name } else { name.join(self.path) };
        self
    }
}

/// Names what was being done with the file at hand; callers add the directories with [`Error::below`].
pub(crate) fn on(doing: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error { doing, path: PathBuf::from("."), source: errno.into() }
}
