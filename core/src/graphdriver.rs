//! The storage contract: everything that a storage driver promises, and everything that it may rely on.
//!
//! # The model
//!
//! A **layer** is a directory tree that may have a parent. It is *writable* from [`create`](GraphDriver::create) to
//! [`commit`](GraphDriver::commit), then *committed*: frozen for good. Only a committed layer can be a parent, so
//! whatever a layer stands on never changes under it. What a layer shows is its parent's tree with its own changes.
//!
//! A driver **stores layers and says how to mount them**. It mounts nothing that a caller sees, knows no image and no
//! container, reads no tar, computes no digest, and keeps no record of which layer is whose parent: the engine owns
//! that graph and passes the resolved [`Chain`] to each call. (Docker's graphdrivers did all of this and could not
//! list what they held, so a crash leaked layers for good: moby#45939. containerd's snapshotters return mounts as
//! data, and this contract keeps that.)
//!
//! # Opening
//!
//! A driver's crate exports a [`DriverEntry`](crate::DriverEntry). Its `open` is called with a directory and the
//! options. The directory exists with mode 0700, belongs to this driver alone, and may be open in another process with
//! the same driver at the same moment.
//!
//! Opening reads the options before it touches anything, finds out once what this host can do, and finishes what a
//! crash left, though never what another live process is doing: so a driver marks what it is making by something that
//! ends with the process, such as a lock. It fails with `Unavailable` where the host lacks what the driver needs (an
//! automatic choice goes on to the next driver), with `Options` for options that it does not take, with `Corrupt` for
//! a directory that it cannot read; a failed open leaves the directory as it was. There is no close: the value is
//! dropped, or its process killed, at any moment.
//!
//! # The life of a layer
//!
//! ```text
//!            create ──► writable ──► commit ──► committed ──► remove
//!                          │  ▲                   │
//!        mounts(Write|Apply)  release     mounts(Read), parent of others
//! ```
//!
//! *Importing a layer of an image.* The engine calls `create`, then `mounts` with [`Access::Apply`], mounts what it
//! got, extracts a tarball into the tree, unmounts, calls `release`, then `commit`. When every layer of the image is
//! there it calls `sync` once, and writes its own record after that: a layer that a record names has survived.
//!
//! *Running a container.* `create` on top of the image's last layer, `mounts` with [`Access::Write`], mount, run,
//! unmount, `release`. The layer stays writable, so that the container can be started again.
//!
//! *Turning a container into an image.* The container is paused, `duplicate` copies its layer, `commit` freezes the
//! copy, `changes` says where the differences are.
//!
//! # Ways to mount
//!
//! `mounts` answers with [`MountSpec`]s. They are made in their order and undone in reverse. A source is an absolute
//! path that the driver made; a target is below the tree that is being built, and empty for the tree itself.
//!
//! | | shows | to know |
//! |---|---|---|
//! | [`Bind`](crate::mount::Bind) | a directory | what is mounted below it does not come along |
//! | [`Overlay`](crate::mount::Overlay) | directories over each other, as the tree itself | `lowers` has the topmost first, and 500 at the most. `upper` and its `work` are on one file system and in no other live mount; without `upper` it is read-only. The kernel wants two directories at the least, so a single lower is a `Bind` |
//! | [`Fs`](crate::mount::Fs) | a file system of the kernel, on a device or an image file | `mounts` makes the device ready, `release` undoes that |
//! | [`Helper`](crate::mount::Helper) | what a process serves by FUSE, as the tree itself | it is the `helper` of the driver's entry, is given `/dev/fuse` as descriptor 3, and ends when the mount is gone |
//!
//! For [`Access::Read`] they are `read_only`, or have no `upper`. The id map and the label of a request go into every
//! one that has the field. No other form and no option of a driver's own exists: one that is needed is added there, for
//! everybody.
//!
//! # Who does what
//!
//! | | the driver | the caller ([`Store`](crate::Store), engine) |
//! |---|---|---|
//! | mounting, unmounting | never, but for probing inside its own root | always, and before every `release`, `commit`, `remove` |
//! | deleting content | `remove`, and `open` for what a crash left | never inside the driver's root |
//! | the graph of parents | never; it may check that the nearest parent is there and committed | always; no layer with children is removed |
//! | the mark of a commit | the driver, on disk, so that it refuses to write what is frozen | the record of the layer, after `sync` |
//! | locks | one driver root may be open in many processes at once; a driver guards its own records | one `Write` or `Apply` mount at a time, none while it commits or removes |
//! | durability | nothing is promised before `sync` returns, everything after | calls `sync` before it records a layer |
//!
//! # What a driver may rely on
//!
//! Calls about **different** layers come from many threads and processes at once. Calls about **one** layer come one
//! at a time, except that any number of `mounts`, `release` and `usage` for [`Access::Read`] overlap. Ids are safe as
//! file names. Parents are committed and stay until their last child is gone.
//!
//! # Errors, and what they leave
//!
//! A call that fails leaves things as they were before it; what it made on the way is undone, or is found and removed
//! by the next `open`. A crash (`kill -9`, power cut) at any moment leaves a root that `open` accepts, and in which
//! every layer that was committed and synced is whole, every other one is whole or listed by `list` or gone. `remove`
//! clears whatever `list` names. Any call may return [`Error::Driver`], [`Error::NoSpace`] or [`Error::Corrupt`]; each
//! method names what else it returns; where two of these apply, either is right. A caller decides by the variant, so
//! each has one meaning:
//!
//! * `NotFound`: there is no such layer. The caller may go on as if it had been removed.
//! * `AlreadyExists`: a layer has this id, and was left as it is.
//! * `State`: the layer is committed and would be written, or writable and would be a parent.
//! * `Unsupported`: the capabilities do not claim it, so asking again is no use.
//! * `Unavailable`: the host lacks something, and the reason says what would provide it. From `open` alone.
//! * `Options`: a value cannot be used; the text says which can.
//! * `NoSpace`: the device is full. Trying again works once there is room.
//! * `Quota`: a limit is reached, while the device may have room.
//! * `Corrupt`: what is on disk is not what was put there. It is not used before it is repaired or removed.
//! * `Driver`: everything else; it can only be reported. [`Error::io`] tells it from the full disk.
//!
//! `InUse` is the [`Store`](crate::Store)'s, which locks a layer before it calls: a driver never returns it, and need
//! not know who has a layer. `Full` and `Incomplete` are for networks.
//!
//! # Units
//!
//! Sizes are bytes. Depths count layers. Nothing here has a time.

use std::collections::HashSet;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use crate::mount::IdMap;
use crate::{Chain, Error, LayerId, MountSpec, Result};

/// A back end that stores layers. The module's text is part of this contract.
///
/// There are no default methods: a wrapper that forgets one does not compile. What a driver cannot do it refuses with
/// [`Error::Unsupported`], exactly where its [`Capabilities`] do not claim it. `mica-conformance` checks every sentence
/// below that can be checked.
pub trait GraphDriver: Debug + Send + Sync {
    /// The name under which it is registered, such as `overlay2`. It is written into the engine's records.
    fn name(&self) -> &str;

    /// What this driver can do on this host, in this root, with these options. Probed once, when it was opened; the
    /// answer never changes while it is open.
    fn capabilities(&self) -> &Capabilities;

    /// What an operator wants to know about it now, as names and values for `mica info`: the backing file system,
    /// how full the pool is. For people only; nobody parses it.
    fn status(&self) -> Result<Vec<(String, String)>>;

    /// What is wrong with what all layers are kept in, such as a pool, for `mica storage check`: a sentence each without
    /// a full stop, which says what mends it. Empty where all is well. What is wrong with a single layer shows when that is
    /// used. Changes nothing.
    fn check(&self) -> Result<Vec<String>>;

    /// Makes an empty change on top of `chain.parents`: a writable layer that shows its parent's tree, or an empty
    /// directory of mode 0755 owned by root where there is no parent. The tree's root directory has the mode, the
    /// owner and the extended attributes of the parent's.
    ///
    /// [`Created::Ready`] says that the driver has the finished content of this layer already, committed (a remote
    /// snapshotter); the caller then neither fills nor commits it.
    ///
    /// With [`LayerOptions::detached`] the parents are not given, `chain.parents` is empty, and the layer learns them
    /// at its commit; it is mounted only for [`Access::Apply`] before that.
    ///
    /// Fails with `AlreadyExists` for an id that is in use by any layer, `NotFound` for a missing nearest parent, `State` for a
    /// writable one, `Unsupported` for a quota or a detached layer that is not claimed, `Options` for a quota that
    /// cannot be kept or a chain deeper than `max_depth`. Nothing is left after any of them.
    fn create(&self, chain: Chain<'_>, options: &LayerOptions) -> Result<Created>;

    /// Says how to mount the layer, and makes the sources of these mounts ready (activates a device).
    ///
    /// [`Access::Read`] shows the whole tree, read-only, of a committed or a writable layer. [`Access::Write`] shows the
    /// whole tree, writable, of a writable layer. [`Access::Apply`] is for filling a writable layer from a tarball, and
    /// [`Mounts::whiteouts`] says what kind of tree that is. Every successful call is paired with a
    /// [`release`](Self::release) by the caller, after the mounts are gone.
    ///
    /// Fails with `NotFound`, `State` for `Write` or `Apply` on a committed layer and for `Read` or `Write` on a detached one,
    /// `Unsupported` for an id map that is not claimed. Nothing stays active then.
    fn mounts(&self, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts>;

    /// Undoes what `mounts` made ready. The caller has unmounted everything, and is the last user of this layer with
    /// this access. Idempotent; a layer that was never active, or does not exist, is no error.
    fn release(&self, chain: Chain<'_>, access: Access) -> Result<()>;

    /// Freezes the layer. Nothing of it is mounted. From here on `Read` is its only access, and it can be a parent. The content
    /// is on disk for good only after [`sync`](Self::sync). For a detached layer `chain` names the parents that it
    /// stands on from now on. Idempotent.
    ///
    /// Where a child shows the inode numbers and ctimes of its parent, as a snapshot does, this returns in a later tick of the
    /// kernel's clock than the last change of the layer: such a pair of equal ones counts as untouched, and before Linux 6.13
    /// two changes in one tick have one ctime.
    ///
    /// Fails with `NotFound`, for a detached layer as `create` does about its nearest parent; the layer stays as it was
    /// after an error.
    fn commit(&self, chain: Chain<'_>) -> Result<()>;

    /// Returns when these layers, their content and the fact that they are committed, survive a power cut. One barrier
    /// for all of them, however many files they hold. It reports write-back errors that came since the driver was
    /// opened, rather than lose them.
    ///
    /// Fails with `NotFound`.
    fn sync(&self, layers: &[LayerId]) -> Result<()>;

    /// Makes `to`, a writable layer with the parents and the content of the writable layer `from`, which stays as it is. `from`
    /// may be mounted; the caller has paused whoever writes to it, and the copy shows what they wrote. Its quota is
    /// not copied.
    ///
    /// Fails with `Unsupported` where it is not claimed, `NotFound` for `from`, `State` when `from` is committed,
    /// `AlreadyExists` for `to`.
    fn duplicate(&self, from: Chain<'_>, to: &LayerId) -> Result<()>;

    /// Says where the differences between this layer and its parent are to be found, without reading them. `trees`
    /// mounts the two for reading when they are asked for; a driver that knows its changes from elsewhere does not
    /// ask, and so costs no mount. The layer may be writable, and even mounted, if its writers are paused or the
    /// caller can do with a snapshot in motion.
    ///
    /// Fails with `NotFound`.
    fn changes(&self, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes>;

    /// What this layer alone takes on disk: what removing it would give back, as far as the driver can tell. It may
    /// walk the layer's own changes, never its parents'.
    ///
    /// Fails with `NotFound`.
    fn usage(&self, chain: Chain<'_>) -> Result<Usage>;

    /// Where this layer is kept, as names and values for `mica inspect`: its directories, its device. The names are
    /// those of Docker's `GraphDriver.Data` where that has them. For people and their scripts; the engine reads
    /// nothing of it. Makes nothing ready: what is there only while the layer is mounted is left out otherwise.
    ///
    /// Fails with `NotFound`.
    fn layer_status(&self, chain: Chain<'_>) -> Result<Vec<(String, String)>>;

    /// Removes a layer in any state, finished or not. Nothing of it is mounted and no layer stands on it. The id is free when
    /// this returns, and a crash on the way leaves a layer that is whole, or only space that the next `open`
    /// reclaims. Idempotent: a layer that does not exist is removed already.
    fn remove(&self, id: &LayerId) -> Result<()>;

    /// Every layer on disk, writable and committed, in no order: so that what no record names can be found and
    /// removed. What `remove` has renamed away is not listed.
    fn list(&self) -> Result<Vec<LayerId>>;
}

/// What [`GraphDriver::create`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// An empty, writable layer.
    Fresh,
    /// A committed layer with its content.
    Ready,
}

/// How a new layer differs from the usual one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerOptions {
    /// How much the layer may hold.
    pub quota: Quota,
    /// The parents become known at commit; see [`GraphDriver::create`].
    pub detached: bool,
}

/// The most that a layer's own changes may take; `None` is no limit of its own. Writing past it answers `EDQUOT` or `ENOSPC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes on disk. A driver may round up to its block size.
    pub bytes: Option<u64>,
    /// Files, directories and links together.
    pub inodes: Option<u64>,
}

/// What a mounted tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The whole tree; every write answers `EROFS`.
    Read,
    /// The whole tree; writes go to this layer.
    Write,
    /// For extracting a layer tarball, in the form that [`Mounts::whiteouts`] names.
    Apply,
}

/// What is to be mounted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRequest {
    /// What the tree is for.
    pub access: Access,
    /// The rest.
    pub options: MountOptions,
}

/// Wishes about a mount that do not depend on what it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Owners are shifted by this map; `Unsupported` where [`Capabilities::id_maps`] is not claimed.
    pub id_map: Option<IdMap>,
    /// An SELinux context for every file; passed on to the mount.
    pub label: Option<String>,
    /// The layer is thrown away after a crash, so nothing needs to be synced. A permission, not a demand.
    pub volatile: bool,
}

/// How to mount a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts {
    /// Made in this order, undone in reverse. The first makes the tree, a later one may go below it.
    pub specs: Vec<MountSpec>,
    /// What a deletion looks like in an [`Access::Apply`] tree. [`WhiteoutForm::Merged`] for every other access.
    pub whiteouts: WhiteoutForm,
}

/// What it takes to delete, in a tree that is mounted for [`Access::Apply`], a file that the parent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhiteoutForm {
    /// The tree is the whole tree, parents included: delete the file.
    Merged,
    /// The tree holds this layer's own files only. A character device 0:0 hides a name, and the extended attribute
    /// `trusted.overlay.opaque` = `y` hides all that is below a directory (overlayfs documentation, "whiteouts and
    /// opaque directories").
    Overlay {
        /// The attribute is `user.overlay.opaque` instead.
        user_xattr: bool,
    },
    /// The tree holds this layer's own files only. `.wh.NAME` hides a name, `.wh..wh..opq` in a directory hides
    /// all that is below it (aufs manual): as they stand in a layer tarball.
    Aufs,
}

/// The trees that [`GraphDriver::changes`] may look at. Each is mounted for reading when it is first asked for, and
/// stays until the value is dropped.
pub trait Trees {
    /// The layer's whole tree.
    fn layer(&self) -> Result<&Path>;
    /// The parent's whole tree; `None` for a base layer.
    fn parent(&self) -> Result<Option<&Path>>;
}

/// Where the differences between a layer and its parent are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// This directory holds the layer's own files and nothing else; deletions are marked in this form, never `Merged`.
    /// A directory that is not opaque adds to the one below it.
    Upper {
        /// The directory.
        dir: PathBuf,
        /// How deletions are marked.
        whiteouts: WhiteoutForm,
    },
    /// The two whole trees must be compared.
    Compare {
        /// The inode numbers, in the layer's tree, of everything that may differ from what the parent has at the
        /// same path: in content, in metadata, or, for a directory, in its list of names. What is not in the set
        /// is equal. `None`: the driver knows nothing, compare everything.
        only: Option<HashSet<u64>>,
    },
}

/// What a layer takes on disk, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated, which holes are not. A file with several names in the layer counts once.
    pub bytes: u64,
    /// Inodes, where the driver knows.
    pub inodes: Option<u64>,
}

/// What a driver can do. A claimed capability is proved by the conformance suite; one that is not claimed must answer
/// as its line says, and the suite checks that too. Nobody asks for a driver's name instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Keeps [`Quota::bytes`]; else `create` answers `Unsupported`.
    pub quota_bytes: Support,
    /// Keeps [`Quota::inodes`]; else `create` answers `Unsupported`.
    pub quota_inodes: Support,
    /// Mounts with [`MountOptions::id_map`]; else `mounts` answers `Unsupported`.
    pub id_maps: Support,
    /// The most layers in a chain, the top included; `create` answers `Options` beyond it. `None`: no limit of its own.
    pub max_depth: Option<usize>,
    /// Takes [`LayerOptions::detached`], so that the layers of an image are filled at once; else `create` answers `Unsupported`.
    pub detached_apply: bool,
    /// Can [`GraphDriver::duplicate`]; else it answers `Unsupported`.
    pub duplicate: bool,
    /// A file that a layer did not change takes no space in it; else each layer holds a copy.
    pub shared_data: bool,
    /// How far a `Write` tree behaves like one plain file system.
    pub posix: Posix,
}

impl Capabilities {
    /// Fails with `Unsupported` where `options` ask for what this does not claim; for the first line of `create`.
    pub fn admit_layer(&self, driver: &str, options: &LayerOptions) -> Result<()> {
        let quota = &options.quota;
        admit(driver, options.detached, self.detached_apply, "detached apply")?;
        admit(driver, quota.bytes.is_some(), self.quota_bytes.is_yes(), "a quota of bytes")?;
        admit(driver, quota.inodes.is_some(), self.quota_inodes.is_yes(), "a quota of inodes")
    }

    /// Fails with `Unsupported` where `options` ask for what this does not claim; for the first line of `mounts`.
    pub fn admit_mount(&self, driver: &str, options: &MountOptions) -> Result<()> {
        admit(driver, options.id_map.is_some(), self.id_maps.is_yes(), "id maps")
    }
}

fn admit(driver: &str, asked: bool, claimed: bool, op: &'static str) -> Result<()> {
    if asked && !claimed {
        return Err(Error::Unsupported { driver: driver.to_owned(), op });
    }
    Ok(())
}

/// Where a union of directories may fall short of a plain file system, and what it does then. Names have 255 bytes, or
/// what statfs(2) says where a union keeps some of them for itself, which is 242 at the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posix {
    /// A directory that came from a parent can be renamed; else `rename` answers `EXDEV`, upon which `mv` copies.
    pub rename_lower_dirs: bool,
    /// A file that was opened for reading before the first write to it shows what is written; else the open
    /// descriptor keeps showing the parent's content.
    pub coherent_open: bool,
    /// Two names of one file of a parent stay one file when it is written; else the written name becomes a file of its own.
    pub lower_hard_links: bool,
}

/// A capability that depends on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It works here.
    Yes,
    /// It does not.
    No {
        /// Why, and what would make it work, for `mica drivers`.
        reason: String,
    },
}

impl Support {
    /// Whether it works.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    /// It does not work, for this reason.
    pub fn no(reason: impl Into<String>) -> Self {
        Self::No { reason: reason.into() }
    }
}
