//! A pseudo-terminal of the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, Uid, fchown, fstatfs, makedev, statat};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Context, Error, Result};
use crate::rootfs::resolve;

/// `f_type` of devpts (linux/magic.h).
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Allocates one in the devpts of the container whose root is `root`, for the user `uid`.
    pub(crate) fn open(root: BorrowedFd<'_>, size: Winsize, uid: u32) -> Result<Self> {
        let what = || "opening a terminal in the container's /dev/pts";
        let path = resolve::open_path(root, Path::new("/dev/pts/ptmx")).context(what)?;
        // An image or volume could have put anything there (CVE-2025-52565).
        let stat = statat(&path, "", AtFlags::EMPTY_PATH).context(what)?;
        let devpts = fstatfs(&path).context(what)?.f_type == DEVPTS_SUPER_MAGIC;
        if !devpts || stat.st_rdev != makedev(5, 2) {
            return Err(Error::spec(
                "/dev/pts/ptmx is not the terminal multiplexer; a terminal needs devpts on /dev/pts",
            ));
        }
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let master = resolve::open(root, Path::new("/dev/pts/ptmx"), flags).context(what)?;
        unlockpt(&master).context(what)?;
        let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, peer).context(what)?;
        tcsetwinsize(&slave, size).context(what)?;
        // Group and mode are those that devpts was mounted with.
        fchown(&slave, Some(Uid::from_raw(uid)), None).context(what)?;
        Ok(Self { master, slave })
    }

    /// Makes it the controlling terminal and the three standard streams of this process.
    pub(crate) fn take(&self) -> Result<()> {
        setsid().context(|| "starting a session")?;
        ioctl_tiocsctty(&self.slave).context(|| "taking the terminal")?;
        let slave = self.slave.as_fd();
        standard_streams(slave, slave, slave)
    }
}

/// Makes these the descriptors 0, 1 and 2, whichever numbers they have now.
pub(crate) fn standard_streams(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<()> {
    let what = || "connecting the standard streams";
    // Copies above 2 first: one of the three may be a number that another one is to get.
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).context(what);
    let (stdin, stdout, stderr) = (copy(stdin)?, copy(stdout)?, copy(stderr)?);
    dup2_stdin(&stdin).context(what)?;
    dup2_stdout(&stdout).context(what)?;
    dup2_stderr(&stderr).context(what)
}
