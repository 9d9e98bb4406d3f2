//! A file system mounted for a test.

use std::cell::OnceCell;
use std::ffi::CString;
use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::UnshareFlags;
use tempfile::TempDir;

thread_local! {
    static PRIVATE: OnceCell<()> = const { OnceCell::new() };
}

/// Visible to the thread of the test alone, so that the kernel takes it away however the test ends.
pub(crate) struct Mounted(TempDir);

impl Mounted {
    pub(crate) fn new(kind: &str, options: &str) -> Self {
        PRIVATE.with(|private| {
            private.get_or_init(|| {
                #[expect(
                    deprecated,
                    reason = "unsound for shared descriptors, which these flags do not touch"
                )]
                rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
                mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            });
        });
        let dir = tempfile::tempdir().unwrap();
        let data = CString::new(options).unwrap();
        mount(kind, dir.path(), kind, MountFlags::empty(), &*data).unwrap();
        Self(dir)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
