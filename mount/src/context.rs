//! A file system that is being configured, before it is a mount.

use std::os::fd::{AsFd, OwnedFd};

use mica_core::Result;
use rustix::mount as sys;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::path::Arg;

use crate::error::failed;

/// The longest string that one `fsconfig` takes, without its terminating zero.
pub(crate) const LONGEST_STRING: usize = 255;

/// The descriptor of `fsopen`. The kernel writes into it why it refuses something; every error carries that.
pub(crate) struct Context {
    fs: OwnedFd,
    doing: String,
}

impl Context {
    /// Begins with a file system of this type. `doing` begins the text of every error.
    pub(crate) fn open(fstype: &str, doing: String) -> Result<Self> {
        match sys::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fs) => Ok(Self { fs, doing }),
            Err(e) => Err(failed(doing, e, "")),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<()> {
        self.check(sys::fsconfig_set_flag(self.fs.as_fd(), key))
    }

    pub(crate) fn string(&self, key: &str, value: impl Arg) -> Result<()> {
        self.check(sys::fsconfig_set_string(self.fs.as_fd(), key, value))
    }

    pub(crate) fn descriptor(&self, key: &str, value: impl AsFd) -> Result<()> {
        self.check(sys::fsconfig_set_fd(self.fs.as_fd(), key, value))
    }

    /// Has the file system made. The kernel's own number of a failure is kept for who knows what it means.
    pub(crate) fn create(&self) -> Result<(), rustix::io::Errno> {
        sys::fsconfig_create(self.fs.as_fd())
    }

    /// The mount, detached.
    pub(crate) fn mount(&self, attributes: MountAttrFlags) -> Result<OwnedFd> {
        self.check(sys::fsmount(self.fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes))
    }

    /// Turns an error of the kernel into one that says what was being done and why it was refused.
    pub(crate) fn check<T, E: Into<std::io::Error>>(&self, result: Result<T, E>) -> Result<T> {
        result.map_err(|e| failed(&self.doing, e, &self.log()))
    }

    /// What the kernel wrote, without the letter that says how grave each line is.
    fn log(&self) -> String {
        let mut lines = Vec::new();
        let mut line = [0u8; 1024];
        while let Ok(length @ 1..) = rustix::io::read(&self.fs, &mut line) {
            let text = String::from_utf8_lossy(&line[..length]);
            let text = text.trim();
            lines.push(text.split_once(' ').map_or(text, |(_, rest)| rest).to_owned());
        }
        lines.join("; ")
    }
}
