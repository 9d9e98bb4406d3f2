//! How a layer becomes a directory tree: data that a driver returns and that `mica-mount` performs.
//!
//! The list is closed. A driver that needs another way of mounting adds a variant here, for everybody, and one
//! audited performer learns it; there are no private option strings with meanings of their own. (containerd's open
//! vocabulary of mount types ended with direct clients unable to mount what a snapshotter returned:
//! containerd#14015.)
//!
//! What a driver must know of each form stands in [`graphdriver`](crate::graphdriver#ways-to-mount); here are the
//! fields, and what the performer does with them.

use std::ffi::OsString;
use std::path::PathBuf;

/// One mount. The mounts of a layer are made in order, each on what those before it made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MountSpec {
    /// A directory shows up as it is.
    Bind(Bind),
    /// Directories laid over each other by the kernel's overlayfs.
    Overlay(Overlay),
    /// A file system of the kernel on a device or a file.
    Fs(Fs),
    /// A file system that a process serves through FUSE.
    Helper(Helper),
}

/// A bind mount, of this directory alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The directory that shows up.
    pub source: PathBuf,
    /// Where, below the tree; empty for the tree itself. It must exist when the mount is made.
    pub target: PathBuf,
    /// Writes answer `EROFS`.
    pub read_only: bool,
    /// Owners are shifted by this map.
    pub id_map: Option<IdMap>,
}

/// An overlay mount, always the tree itself.
///
/// The performer names `index`, `metacopy`, `redirect_dir` and `xino` in every mount where the kernel knows them, so
/// that the defaults of a host cannot change what a layer holds (a `metacopy` upper file has no data; a `redirect`
/// directory is elsewhere below).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only directories, the topmost first.
    pub lowers: Vec<PathBuf>,
    /// Where writes go. Without one the mount is read-only.
    pub upper: Option<Upper>,
    /// Overlayfs keeps its marks in `user.overlay.*`, as it must inside a user namespace, and not `trusted.overlay.*`.
    pub user_xattr: bool,
    /// Nothing is synced on unmount; after a crash the upper directory must be thrown away (Linux 5.10).
    pub volatile: bool,
    /// An SELinux context for every file.
    pub label: Option<String>,
    /// Owners are shifted by this map.
    pub id_map: Option<IdMap>,
}

/// The writable part of an overlay. Both directories are on one file system, and no other live mount has them: the
/// kernel allows a second mount of one upper directory and calls the result undefined (overlayfs documentation,
/// "Sharing and copying layers").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// What was written.
    pub dir: PathBuf,
    /// Overlayfs' own scratch space, empty at first.
    pub work: PathBuf,
}

/// A file system of the kernel, such as ext4 on a thin volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fs {
    /// The kernel's name for it.
    pub fstype: String,
    /// The block device or image file.
    pub source: PathBuf,
    /// Options of that file system: a name, and a value where it takes one.
    pub options: Vec<(String, Option<String>)>,
    /// What is set once it is mounted and before anybody has the tree: files below `/sys/fs/FSTYPE/DEVICE`, and what is
    /// written to them.
    pub settings: Vec<(PathBuf, String)>,
    /// Where, below the tree; empty for the tree itself.
    pub target: PathBuf,
    /// Mounted read-only, and the device opened so.
    pub read_only: bool,
    /// An SELinux context for every file.
    pub label: Option<String>,
    /// Owners are shifted by this map.
    pub id_map: Option<IdMap>,
}

/// A FUSE file system, always the tree itself.
///
/// The performer opens `/dev/fuse`, mounts, and hands the descriptor to the helper as its descriptor 3. The helper is the
/// entry point that the driver registered (see [`DriverEntry::helper`](crate::DriverEntry)). It runs outside the
/// container's cgroup and namespaces, serves until the mount is gone, and ends then.
/// The mount is handed out once it has answered. One that cannot serve says why on its standard error, and ends with a
/// status that is not 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Helper {
    /// The name of the driver whose helper serves it.
    pub driver: String,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Writes answer `EROFS`.
    pub read_only: bool,
    /// An SELinux context for every file.
    pub label: Option<String>,
}

/// How owners on disk appear in a mounted tree, for users and groups alike or apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// `count` ids from `disk` on disk appear as those from `tree` on in the mounted tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id on disk.
    pub disk: u32,
    /// The first id in the tree.
    pub tree: u32,
    /// How many.
    pub count: u32,
}
