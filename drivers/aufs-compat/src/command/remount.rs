//! What mount(8) asks for by the option `remount`: another set of things that a mount forbids. Its branches stay.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mica_core::{Error, Result};
use rustix::mount::{MountAttrFlags, MountFlags, mount_remount};

use crate::branches::split;
use crate::mount_options::MountOptions;

const FLAGS: [(MountAttrFlags, MountFlags); 7] = [
    (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
    (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
    (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
];

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
        let chosen = FLAGS.iter().filter(|(attribute, _)| self.attributes.contains(*attribute));
        let flags = chosen.fold(MountFlags::empty(), |flags, (_, flag)| flags | *flag);
        let doing = || format!("remount '{}'", self.at.display());
        mount_remount(&self.at, flags, "").map_err(|e| Error::io(doing)(e.into()))
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
