//! A part of a file in memory, and mounts of our own.
#![allow(unsafe_code)]

use std::fs::File;
use std::ptr;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives this process a set of mounts of its own, a copy: otherwise whoever copies the common one would keep a union mounted
/// that was unmounted here. Called before there is another thread.
pub(crate) fn leave_the_mounts_of_others() {
    // SAFETY: no memory, descriptor or thread is unshared, and nobody relies on this process's mounts yet.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

/// A shared mapping from the start of a file. It does not reach beyond the file's end, and who holds it does not shorten
/// the file.
pub(crate) struct Mapping {
    start: *mut std::ffi::c_void,
    length: usize,
}

impl Mapping {
    pub(crate) fn read(file: &File) -> Self {
        Self::new(file, ProtFlags::READ)
    }

    /// The file is open for writing.
    pub(crate) fn write(file: &File) -> Self {
        Self::new(file, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(file: &File, protection: ProtFlags) -> Self {
        let length = file.metadata().unwrap().len() as usize;
        // SAFETY: a new mapping where the kernel likes it; nothing else lies there.
        let start = unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) }.unwrap();
        Self { start, length }
    }

    pub(crate) fn copy(&self, from: usize, length: usize) -> Vec<u8> {
        assert!(from + length <= self.length);
        let mut copy = vec![0; length];
        // SAFETY: the range is within the mapping, and the file as long, as the type's contract says.
        unsafe { ptr::copy_nonoverlapping(self.start.cast::<u8>().add(from), copy.as_mut_ptr(), length) };
        copy
    }

    /// Only of a mapping for writing.
    pub(crate) fn put(&self, from: usize, bytes: &[u8]) {
        assert!(from + bytes.len() <= self.length);
        // SAFETY: as above; the mapping is writable, as the caller promises.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast::<u8>().add(from), bytes.len()) };
    }

    pub(crate) fn sync(&self) {
        // SAFETY: the whole mapping, which exists.
        unsafe { msync(self.start, self.length, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, of which nothing was handed out.
        unsafe { munmap(self.start, self.length) }.unwrap();
    }
}
