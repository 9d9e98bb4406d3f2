//! Content of files, between a request and a file.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use fuse_backend_rs::abi::fuse_abi::statvfs64;
use fuse_backend_rs::api::filesystem::OpenOptions;
use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;
use rustix::fs::StatVfs;

/// A file that is read and written where the call says, by any number of threads.
#[derive(Debug)]
pub(crate) struct Positioned<'a>(pub(crate) BorrowedFd<'a>);

impl FileReadWriteVolatile for Positioned<'_> {
    fn read_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ESPIPE))
    }

    fn write_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(libc::ESPIPE))
    }

    fn read_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        let offset = position(offset)?;
        // SAFETY: the slice is memory that may be written for its length, and the call lasts as long as its borrow.
        let read = unsafe { libc::pread(self.0.as_raw_fd(), slice.as_ptr().cast(), slice.len(), offset) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    fn write_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        let offset = position(offset)?;
        // SAFETY: the slice is memory that may be read for its length, and the call lasts as long as its borrow.
        let written = unsafe { libc::pwrite(self.0.as_raw_fd(), slice.as_ptr().cast(), slice.len(), offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Flags of an answer to OPEN, also those that the library has no name for (`FOPEN_*` of `linux/fuse.h`).
pub(crate) const fn open_options(bits: u32) -> OpenOptions {
    // SAFETY: a set of bits in a structure that goes to the kernel as it is.
    unsafe { OpenOptions::from_bits_unchecked(bits) }
}

/// What there is of a file system, as the library has it.
pub(crate) fn statistics(of: &StatVfs) -> statvfs64 {
    // SAFETY: a structure of numbers.
    let mut stat: statvfs64 = unsafe { std::mem::zeroed() };
    stat.f_bsize = of.f_bsize;
    stat.f_frsize = of.f_frsize;
    stat.f_blocks = of.f_blocks;
    stat.f_bfree = of.f_bfree;
    stat.f_bavail = of.f_bavail;
    stat.f_files = of.f_files;
    stat.f_ffree = of.f_ffree;
    stat.f_favail = of.f_favail;
    stat.f_namemax = of.f_namemax;
    stat
}
