//! A write that no system call tells of, and the end of a file system as a power cut brings it.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Overwrites the first byte of a file that has one, through memory.
pub(crate) fn scribble(path: &Path, byte: u8) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: the kernel chooses the address; the mapping is of one page, of a file that is open.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, shared, file.as_raw_fd(), 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if file.metadata()?.len() > 0 {
        // SAFETY: the page is mapped for writing, and its first byte is within the file.
        unsafe { page.cast::<u8>().write_volatile(byte) };
    }
    // SAFETY: the page was mapped above, and nothing refers to it any more.
    match unsafe { libc::munmap(page, 4096) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a mounted file system once its log is written and before anything else is: what follows fails.
pub(crate) fn cut_off(tree: &Path) -> io::Result<()> {
    /// `XFS_IOC_GOINGDOWN` of xfs_fs.h, which ext4 has, too.
    const GOING_DOWN: libc::c_ulong = 0x8004_587d;
    const WRITE_LOG: u32 = 1;
    let root = std::fs::File::open(tree)?;
    // SAFETY: the command reads a number of 32 bits.
    match unsafe { libc::ioctl(root.as_raw_fd(), GOING_DOWN, std::ptr::from_ref(&WRITE_LOG)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
