//! The content of a file: shared where the file system can, else copied without its holes.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;

use crate::error::{Result, on};

/// Up to this size one read and one write cost less than asking for holes.
const SMALL: u64 = 64 * 1024;

/// What is known about the file systems that are copied between; nothing at first.
#[derive(Debug, Default)]
pub struct Abilities {
    no_reflink: AtomicBool,
    no_range: AtomicBool,
}

impl Abilities {
    /// Copies `size` bytes into the empty file `to`, or more where `from` has more and its content is shared.
    pub fn copy(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<()> {
        if size == 0 || self.share(to, from) {
            return Ok(());
        }
        if size <= SMALL {
            return plain(from, to, 0, size);
        }
        let mut position = 0;
        while let Some((start, end)) = segment(from, position, size)? {
            self.range(from, to, start, end)?;
            position = end;
        }
        fs::ftruncate(to, size).map_err(on("extend"))
    }

    fn share(&self, to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> bool {
        if self.no_reflink.load(Ordering::Relaxed) {
            return false;
        }
        match fs::ioctl_ficlone(to, from) {
            Ok(()) => true,
            // These are about the file system; anything else is about this file alone (a swap file, a no-copy-on-write one).
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::NOSYS) => {
                self.no_reflink.store(true, Ordering::Relaxed);
                false
            }
            Err(_) => false,
        }
    }

    fn range(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
        let (mut read, mut written) = (start, start);
        while read < end && !self.no_range.load(Ordering::Relaxed) {
            let length = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
            match fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.no_range.store(true, Ordering::Relaxed);
                }
                Err(errno) => return Err(on("copy")(errno)),
            }
        }
        plain(from, to, read, end)
    }
}

/// The next run of data at or after `position`.
fn segment(from: BorrowedFd<'_>, position: u64, size: u64) -> Result<Option<(u64, u64)>> {
    if position >= size {
        return Ok(None);
    }
    match fs::seek(from, SeekFrom::Data(position)) {
        Ok(start) if start < size => {
            let end = fs::seek(from, SeekFrom::Hole(start)).map_err(on("seek in"))?;
            Ok(Some((start, end.min(size))))
        }
        Ok(_) | Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(on("seek in")(errno)),
    }
}

fn plain(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mut position: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(end - position).unwrap_or(usize::MAX).min(SMALL as usize)];
    while position < end {
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let read = match rustix::io::pread(from, &mut buffer[..wanted], position) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(on("read")(errno)),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match rustix::io::pwrite(to, rest, position) {
                Ok(written) => {
                    rest = &rest[written..];
                    position += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(on("write")(errno)),
            }
        }
    }
    Ok(())
}
