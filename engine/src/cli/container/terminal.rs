//! The terminal that this command runs in.

use std::os::fd::AsFd;

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::{Error, Result};

/// A terminal that hands every key on as it is, until this value is dropped.
#[derive(Debug)]
pub(super) struct Raw(Termios);

impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub(super) fn enter() -> Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let failed = |e: rustix::io::Errno| Error::io(|| "set up the terminal")(e.into());
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Refuses to connect what is no terminal to a container's, as Docker does.
pub(super) fn require() -> Result<()> {
    if isatty(stdin()) {
        return Ok(());
    }
    Err(Error::Invalid("the input device is not a TTY; leave out -t, or -i".to_owned()))
}

/// Rows and columns; zeroes where there is no terminal.
pub(super) fn size() -> (u16, u16) {
    let of = |fd: rustix::fd::BorrowedFd<'_>| tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col));
    of(stdout().as_fd()).or_else(|| of(stdin().as_fd())).unwrap_or_default()
}
