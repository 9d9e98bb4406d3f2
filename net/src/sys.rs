//! The system calls that no safe crate wraps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads an option of a socket whose value answers what the buffer held before. It must answer with as many bytes.
pub(crate) fn ask_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    buffer: &mut [u8],
) -> io::Result<()> {
    let whole = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut length = whole;
    // SAFETY: the pointer and the length are those of one buffer, borrowed for the call alone; the kernel reads and writes no more
    // than `length` bytes of it, and any bytes are a valid content.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    match done {
        0 if length == whole => Ok(()),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}
