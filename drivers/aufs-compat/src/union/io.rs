//! Reading and writing open files.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::{ZeroCopyReader, ZeroCopyWriter};
use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::kill_privileges;
use super::node::Node;
use super::{Result, Union};
use crate::sys::file::Positioned;

impl Union {
    /// Reads up to `size` bytes at `offset`; less only at the end of the file.
    pub(crate) fn read_file(
        &self,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
    ) -> io::Result<usize> {
        let current = self.opened(handle)?.current();
        let mut file = Positioned(current.as_fd());
        let size = size as usize;
        let mut read = 0;
        while read < size {
            match to.write_from(&mut file, size - read, offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Also after a part was read: less than was asked for means the end of the file to the kernel.
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }

    /// Writes `size` bytes at `offset`, after the file lost setuid and setgid if `kill` says so.
    pub(crate) fn write_file(
        &self,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        kill: bool,
    ) -> io::Result<usize> {
        let current = self.writable(handle)?;
        if kill {
            kill_privileges(current.as_fd())?;
        }
        let mut file = Positioned(current.as_fd());
        let size = size as usize;
        let mut written = 0;
        while written < size {
            match from.read_to(&mut file, size - written, offset + written as u64) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // What was written stands, and the next request meets the error.
                Err(_) if written > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(written)
    }

    /// Reserves, frees, zeroes or moves a range of a file, as `fallocate(2)` does.
    pub(crate) fn allocate(
        &self,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
        kill: bool,
    ) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        let current = self.writable(handle)?;
        if kill {
            kill_privileges(current.as_fd())?;
        }
        fs::fallocate(current.as_fd(), mode, offset, length)
    }

    /// Where the next data (`SEEK_DATA`) or hole (`SEEK_HOLE`) is.
    pub(crate) fn seek_file(&self, handle: u64, offset: u64, whence: u32) -> Result<u64> {
        let position = match whence.cast_signed() {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // The position that it moves is nobody's: all reads and writes say where.
        fs::seek(self.opened(handle)?.current().as_fd(), position)
    }

    /// Puts a file on the disk. What is on a lower branch is there already.
    pub(crate) fn sync_file(&self, handle: u64, data_only: bool) -> Result<()> {
        let current = self.opened(handle)?.current();
        if !current.upper || self.options.volatile {
            return Ok(());
        }
        sync(current.as_fd(), data_only)
    }

    /// Puts the names in a directory on the disk. Those on a lower branch are there already.
    pub(crate) fn sync_directory(&self, node: &Arc<Node>, data_only: bool) -> Result<()> {
        if self.options.volatile || !self.is_upper(node) {
            return Ok(());
        }
        sync(self.directory(node, 0)?.as_fd(), data_only)
    }

    /// Puts everything on the disk.
    pub(crate) fn sync_all(&self) -> Result<()> {
        match self.branches.first().filter(|first| first.writable && !self.options.volatile) {
            Some(first) => fs::syncfs(&first.root),
            None => Ok(()),
        }
    }

    /// Copies from one open file to another, inside the file system where it can. Returns how much was copied.
    pub(crate) fn copy_range(
        &self,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
        kill: bool,
    ) -> Result<u64> {
        let (mut read, mut written) = (from.1, to.1);
        let target = self.writable(to.0)?;
        if kill {
            kill_privileges(target.as_fd())?;
        }
        let source = self.opened(from.0)?.current();
        // The answer has 32 bits.
        let length = usize::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
        let copied =
            fs::copy_file_range(source.as_fd(), Some(&mut read), target.as_fd(), Some(&mut written), length)?;
        Ok(copied as u64)
    }
}

/// `fsync` or `fdatasync`.
pub(crate) fn sync(file: BorrowedFd<'_>, data_only: bool) -> Result<()> {
    if data_only { fs::fdatasync(file) } else { fs::fsync(file) }
}
