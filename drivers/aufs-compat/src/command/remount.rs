//! What mount(8) asks for by the option `remount`: another set of things that a mount forbids. Its branches stay.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mica_core::Result;
use rustix::mount::MountAttrFlags;

use crate::branches::split;
use crate::mount_options::MountOptions;

/// A mount, and what is forbidden on it from now on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remount {
    at: PathBuf,
    attributes: MountAttrFlags,
}

impl Remount {
    /// If these lists of options ask for it. mount(8) adds the options of the mount as it is, of which many mean nothing
    /// here.
    pub(super) fn asked(lists: &[OsString], at: &Path) -> Option<Self> {
        lists.iter().any(|list| split(list.as_bytes(), b',').any(|word| word == b"remount")).then(|| {
            let mut options = MountOptions::default();
            lists.iter().for_each(|list| options.add_sloppily(list.as_bytes()));
            Self { at: at.to_owned(), attributes: options.attributes }
        })
    }

    pub(super) fn perform(&self) -> Result<()> {
        mica_mount::remount(&self.at, self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(list: &str) -> Option<Remount> {
        Remount::asked(&[list.into()], Path::new("/mnt"))
    }

    #[test]
    fn the_last_word_counts_and_unknown_ones_do_not() {
        let remount = asked("rw,nosuid,user_id=0,allow_other,lazytime,remount,ro").unwrap();
        let expected = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
        assert_eq!(remount, Remount { at: "/mnt".into(), attributes: expected });
        assert_eq!(asked("ro,remount,rw").unwrap().attributes, MountAttrFlags::empty());
    }

    #[test]
    fn a_mount_is_no_remount() {
        assert_eq!(asked("rw,br:/remount=rw,fsname=remount"), None);
    }
}
