//! Options of others that are taken, and those that are refused for a reason.

use rustix::mount::MountAttrFlags;

/// What is done with an option.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known {
    /// Nothing, since it is so anyway or means nothing here.
    Ignored,
    /// This is forbidden on the mount.
    Set(MountAttrFlags),
    /// This is allowed on it.
    Clear(MountAttrFlags),
    /// So times of access are kept.
    Time(MountAttrFlags),
    /// It is refused, for this reason.
    Refused(&'static str),
}

/// The flags that say how times of access are kept.
pub(super) fn times() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR__ATIME
}

pub(super) fn find(name: &str, value: Option<&str>) -> Option<Known> {
    aufs(name, value).or_else(|| overlay(name, value)).or_else(|| fuse(name)).or_else(|| fstab(name))
}

/// AUFS's own, by its manual.
fn aufs(name: &str, value: Option<&str>) -> Option<Known> {
    Some(match (name, value) {
        // A direct read or write is always possible.
        ("dio" | "nodio", None) => Known::Ignored,
        // Inode numbers need no table on disk.
        ("xino" | "trunc_xino" | "itrunc_xino" | "trunc_xino_path" | "trunc_xino_v", _) => Known::Ignored,
        ("noxino" | "notrunc_xino" | "trunc_xib" | "notrunc_xib", None) => Known::Ignored,
        // It is so: the topmost directory says who may do what, hard links stay links, and access lists are kept.
        ("dirperm1" | "plink" | "acl", None) => Known::Ignored,
        // Branches are changed through the mount alone, so nothing need be looked up again.
        ("udba", Some("none" | "reval" | "notify" | "fsnotify" | "inotify")) => Known::Ignored,
        ("udba", _) => Known::Refused("it is none, reval or notify"),
        // Directories are kept in memory, and deleted ones are gone at once.
        ("rdcache" | "rdblk" | "rdhash" | "dirwh", Some(_)) => Known::Ignored,
        // With one writable branch there is nothing to choose.
        ("create" | "create_policy" | "wbr_create", Some(_)) => Known::Ignored,
        ("cpup" | "copyup" | "cpup_policy" | "copyup_policy" | "wbr_copyup", Some(_)) => Known::Ignored,
        ("diropq", Some("w" | "whiteouted")) => Known::Ignored,
        ("diropq", _) => Known::Refused("a directory is opaque where a whiteout was (diropq=w)"),
        (
            "warn_perm" | "nowarn_perm" | "verbose" | "v" | "noverbose" | "quiet" | "q" | "silent" | "loud",
            None,
        ) => Known::Ignored,
        ("nosum" | "noshwh" | "nodirren", None) => Known::Ignored,
        ("sum", None) => Known::Refused("the space shown is that of the first branch"),
        ("shwh", None) => Known::Refused("whiteouts are never shown; look into the branch"),
        ("dirren", None) => {
            Known::Refused("a directory of several branches cannot be renamed, and mv copies it")
        }
        ("nodirperm1", None) => Known::Refused("the topmost directory alone says who may do what (dirperm1)"),
        ("noplink", None) => Known::Refused("hard links always stay links (plink)"),
        ("noacl", None) => Known::Refused("access lists are always kept (acl)"),
        ("remount" | "del" | "mod" | "imod", _) => {
            Known::Refused("branches stay as they are mounted; unmount first")
        }
        _ => return None,
    })
}

/// Those of fuse-overlayfs and of the kernel's overlayfs.
fn overlay(name: &str, value: Option<&str>) -> Option<Known> {
    Some(match (name, value) {
        // What is not whole yet lies in the writable branch itself.
        ("workdir", Some(_)) => Known::Ignored,
        // AUFS's marks are names, and need no attribute of either kind.
        ("userxattr", None) => Known::Ignored,
        ("index" | "metacopy" | "nfs_export", Some("off")) => Known::Ignored,
        ("redirect_dir", Some("off" | "nofollow")) => Known::Ignored,
        ("index" | "metacopy" | "nfs_export" | "redirect_dir", _) => {
            Known::Refused("AUFS has no mark for it")
        }
        ("threaded" | "clone_fd" | "timeout", _) => Known::Ignored,
        _ => return None,
    })
}

/// Those of every FUSE file system.
fn fuse(name: &str) -> Option<Known> {
    Some(match name {
        // It is so: the kernel checks permissions, and lets everybody in.
        "default_permissions" | "allow_other" | "nonempty" | "subtype" => Known::Ignored,
        "allow_root" => Known::Refused("everybody is let in, and permissions are checked (allow_other)"),
        _ => return None,
    })
}

/// Those of every file system, and those that are for who reads fstab.
fn fstab(name: &str) -> Option<Known> {
    use MountAttrFlags as Flags;
    Some(match name {
        "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser" | "users" | "nousers"
        | "owner" | "noowner" | "group" | "nogroup" | "comment" | "async" | "nomand" | "nolazytime"
        | "noiversion" => Known::Ignored,
        name if name.starts_with("x-") || name.starts_with("X-") => Known::Ignored,
        "rw" => Known::Clear(Flags::MOUNT_ATTR_RDONLY),
        "ro" => Known::Set(Flags::MOUNT_ATTR_RDONLY),
        "suid" => Known::Clear(Flags::MOUNT_ATTR_NOSUID),
        "nosuid" => Known::Set(Flags::MOUNT_ATTR_NOSUID),
        "dev" => Known::Clear(Flags::MOUNT_ATTR_NODEV),
        "nodev" => Known::Set(Flags::MOUNT_ATTR_NODEV),
        "exec" => Known::Clear(Flags::MOUNT_ATTR_NOEXEC),
        "noexec" => Known::Set(Flags::MOUNT_ATTR_NOEXEC),
        "symfollow" => Known::Clear(Flags::MOUNT_ATTR_NOSYMFOLLOW),
        "nosymfollow" => Known::Set(Flags::MOUNT_ATTR_NOSYMFOLLOW),
        "diratime" => Known::Clear(Flags::MOUNT_ATTR_NODIRATIME),
        "nodiratime" => Known::Set(Flags::MOUNT_ATTR_NODIRATIME),
        "noatime" => Known::Time(Flags::MOUNT_ATTR_NOATIME),
        "strictatime" => Known::Time(Flags::MOUNT_ATTR_STRICTATIME),
        "atime" | "relatime" | "nostrictatime" | "norelatime" => Known::Time(Flags::MOUNT_ATTR_RELATIME),
        _ => return None,
    })
}
