//! A layer as a directory tree, for as long as the value lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use mica_core::{Hold, MountSpec, WhiteoutForm};
use mica_mount::{Attached, Mounter};

use crate::outcome::{Doing, Verdict};

/// The first argument of this program when it is started again to serve a FUSE mount; the driver's name and the
/// helper's own arguments follow.
pub(crate) const HELPER: &str = "storage-helper";

/// The performer of mounts.
pub(crate) fn mounter(scratch: &Path) -> Mounter {
    Mounter::new(scratch).with_helper(["/proc/self/exe", HELPER]).with_helper_apart()
}

/// A tree mounted at a directory of its own, as a container's would be, with the hold on its layer. Dropping it
/// unmounts, removes the directory and releases, and swallows errors.
#[derive(Debug)]
pub(crate) struct Mounted {
    attached: Option<Attached>,
    point: PathBuf,
    hold: Option<Hold>,
    whiteouts: WhiteoutForm,
    own_file_system: bool,
}

impl Mounted {
    /// Mounts what is held, in a new directory below `scratch`.
    pub(crate) fn new(hold: Hold, scratch: &Path) -> Verdict<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let point = scratch.join(format!("tree-{}-{number}", std::process::id()));
        fs::create_dir(&point).doing(|| format!("make {}", point.display()))?;
        let whiteouts = hold.mounts().whiteouts;
        let own_file_system = matches!(hold.mounts().specs.first(), Some(MountSpec::Fs(_)));
        let mut mounted = Self { attached: None, point, hold: Some(hold), whiteouts, own_file_system };
        mounted.attach(scratch)?;
        Ok(mounted)
    }

    fn attach(&mut self, scratch: &Path) -> Verdict {
        let Some(hold) = &self.hold else { return Ok(()) };
        let tree = mounter(scratch).open(hold.mounts()).doing(|| "mount what the driver says")?;
        self.attached = Some(tree.attach(&self.point).doing(|| "attach the tree")?);
        Ok(())
    }

    /// The root of the tree.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    /// What a deletion looks like in it.
    pub(crate) fn whiteouts(&self) -> WhiteoutForm {
        self.whiteouts
    }

    /// Whether the layer is on a file system of its own, and not on that of the driver's root.
    pub(crate) fn has_own_file_system(&self) -> bool {
        self.own_file_system
    }

    /// Does something with the tree, then unmounts and releases. The first error counts.
    pub(crate) fn visit<T>(self, work: impl FnOnce(&Self) -> Verdict<T>) -> Verdict<T> {
        let value = work(&self)?;
        self.close()?;
        Ok(value)
    }

    /// Unmounts and releases.
    pub(crate) fn close(mut self) -> Verdict {
        if let Some(attached) = self.attached.take() {
            attached.close().doing(|| "unmount")?;
        }
        fs::remove_dir(&self.point).doing(|| format!("remove {}", self.point.display()))?;
        match self.hold.take() {
            Some(hold) => hold.release().doing(|| "release"),
            None => Ok(()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.attached.take());
        // Gone already where it was closed.
        let _ = fs::remove_dir(&self.point);
    }
}
