//! Changing what a mount forbids.

use std::path::Path;

use mica_core::{Error, Result};
use rustix::mount::{MountAttrFlags, MountFlags, mount_remount};

const FLAGS: [(MountAttrFlags, MountFlags); 7] = [
    (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
    (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
    (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
    (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
    (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
    (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
];

/// Has the mount at `at`, and its file system, forbid this and nothing else, as `mount -o remount` does.
pub fn remount(at: &Path, attributes: MountAttrFlags) -> Result<()> {
    let chosen = FLAGS.iter().filter(|(attribute, _)| attributes.contains(*attribute));
    let flags = chosen.fold(MountFlags::empty(), |flags, (_, flag)| flags | *flag);
    mount_remount(at, flags, "").map_err(|e| Error::io(|| format!("remount '{}'", at.display()))(e.into()))
}
