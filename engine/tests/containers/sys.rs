//! The system calls that no crate at hand wraps.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Writes to the beginning of a file as to memory, and calls `then` while the kernel has that to itself.
pub(crate) fn map_and_write(file: &File, bytes: &[u8], then: impl FnOnce()) {
    let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping, which nothing else knows of, of a file that is longer than `bytes`.
    let mapped = unsafe {
        let mapped = libc::mmap(std::ptr::null_mut(), bytes.len(), access, shared, file.as_raw_fd(), 0);
        assert_ne!(mapped, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), mapped.cast(), bytes.len());
        mapped
    };
    then();
    // SAFETY: nothing refers to it any more.
    assert_eq!(unsafe { libc::munmap(mapped, bytes.len()) }, 0);
}
