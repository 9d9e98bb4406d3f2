//! The system calls that no crate at hand wraps.
#![allow(unsafe_code)]

pub(crate) mod file;
pub(crate) mod umask;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The letter of the calls of `/dev/fuse` (`linux/fuse.h`).
const FUSE: u32 = 229;
const FUSE_DEV_IOC_CLONE: libc::Ioctl = libc::_IOR::<u32>(FUSE, 0);
const FUSE_DEV_IOC_BACKING_OPEN: libc::Ioctl = libc::_IOW::<BackingMap>(FUSE, 1);
const FUSE_DEV_IOC_BACKING_CLOSE: libc::Ioctl = libc::_IOW::<u32>(FUSE, 2);

/// Of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Makes `fresh`, `/dev/fuse` opened anew, another queue of the connection of `channel`.
pub(crate) fn join_connection(fresh: BorrowedFd<'_>, channel: BorrowedFd<'_>) -> io::Result<()> {
    let channel = channel.as_raw_fd() as u32;
    // SAFETY: the kernel reads one 32-bit word from the pointer.
    number(unsafe { libc::ioctl(fresh.as_raw_fd(), FUSE_DEV_IOC_CLONE, std::ptr::from_ref(&channel)) })
        .map(drop)
}

/// Has the kernel hold `file`, so that open files of the mount can be read and written through it; answers with its number.
pub(crate) fn open_backing(channel: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads one `struct fuse_backing_map` from the pointer.
    number(unsafe { libc::ioctl(channel.as_raw_fd(), FUSE_DEV_IOC_BACKING_OPEN, std::ptr::from_ref(&map)) })
}

/// Has the kernel let go of a file that it holds. Files of the mount that are open already keep it.
pub(crate) fn close_backing(channel: BorrowedFd<'_>, number_of_file: u32) -> io::Result<()> {
    let id = number_of_file;
    // SAFETY: the kernel reads one 32-bit word from the pointer.
    number(unsafe { libc::ioctl(channel.as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, std::ptr::from_ref(&id)) })
        .map(drop)
}

/// Takes over what this process was started with as descriptor 3; the second time it is gone.
pub(crate) fn inherited_channel() -> io::Result<OwnedFd> {
    const CHANNEL: i32 = 3;
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: the call reads a flag of a descriptor, or fails where there is none.
    let open = unsafe { libc::fcntl(CHANNEL, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    if !open || TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: it is open, was there before this program began, and so belongs to nothing in it but to the first caller of this.
    Ok(unsafe { OwnedFd::from_raw_fd(CHANNEL) })
}

/// Closes every descriptor above 3. Only for a process that has opened nothing yet.
pub(crate) fn close_stray_descriptors() -> io::Result<()> {
    // SAFETY: what was inherited belongs to nothing in this process, which the caller says has opened nothing.
    number(unsafe { libc::close_range(4, libc::c_uint::MAX, 0) }).map(drop)
}

/// Tells the kernel that this process is part of how files are written: its memory is not got by writing files, and it is not
/// slowed for what others wrote (`PR_SET_IO_FLUSHER`). For the calling thread and those that it starts.
pub(crate) fn set_io_flusher() -> io::Result<()> {
    // SAFETY: the call takes numbers alone.
    number(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

fn number(result: libc::c_int) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}
