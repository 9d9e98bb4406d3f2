//! Where a container's input comes from and its output goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mica_runtime::Io;
use rustix::pipe::{PipeFlags, pipe_with};

use super::external::null;
use super::wire::Stream;
use crate::{Error, Result};

/// The container's side of its standard streams, closed when its process has them.
#[derive(Debug)]
pub(crate) struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Theirs {
    pub(crate) fn io(&self) -> Io<'_> {
        Io { stdin: self.stdin.as_fd(), stdout: self.stdout.as_fd(), stderr: self.stderr.as_fd() }
    }
}

/// The supervisor's side.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    /// Writes to the command: a pipe or a terminal. Handed to clients.
    pub(crate) stdin: Option<OwnedFd>,
    /// What the command prints.
    pub(crate) sources: Vec<Source>,
}

/// Something to read what the container prints from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fd: OwnedFd,
    pub(crate) stream: Stream,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Pipes for a container without a terminal; for one with a terminal nothing, since that comes when it was created.
pub(crate) fn streams(tty: bool, stdin: bool) -> Result<(Theirs, Ours)> {
    let failed = |e: rustix::io::Errno| Error::io(|| "make pipes for a container")(e.into());
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed);
    if tty {
        let theirs = Theirs { stdin: null()?, stdout: null()?, stderr: null()? };
        return Ok((theirs, Ours::default()));
    }
    let (output, stdout) = pipe()?;
    let (errors, stderr) = pipe()?;
    let (theirs, ours) =
        if stdin { pipe().map(|(theirs, ours)| (theirs, Some(ours)))? } else { (null()?, None) };
    let sources =
        vec![Source { fd: output, stream: Stream::Stdout }, Source { fd: errors, stream: Stream::Stderr }];
    Ok((Theirs { stdin: theirs, stdout, stderr }, Ours { stdin: ours, sources }))
}

/// The terminal of a container, for reading, and for handing out or sizing.
pub(crate) fn terminal(console: OwnedFd) -> Result<Ours> {
    let copy = console.try_clone().map_err(Error::io(|| "duplicate a terminal"))?;
    Ok(Ours { stdin: Some(copy), sources: vec![Source { fd: console, stream: Stream::Stdout }] })
}
