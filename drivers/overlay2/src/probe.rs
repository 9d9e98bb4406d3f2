//! What overlayfs can do on this host, in this root: found out by mounting one and using it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use mica_core::mount::{IdMap, IdRange, Overlay, Upper};
use mica_core::{Error, MountSpec, Mounts, Result, Support, WhiteoutForm};
use mica_mount::{Mounter, Tree};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Overlayfs' marks are kept in `user.overlay.*`.
    pub(crate) user_xattr: bool,
    /// The kernel knows `volatile` (Linux 5.10).
    pub(crate) volatile: bool,
    /// Whether owners can be shifted, above and below.
    pub(crate) id_maps: Support,
}

impl Host {
    /// Mounts overlays of directories in `place`, which is empty and stays to the caller to remove. `root` is on the
    /// same file system. Fails with `Unavailable` where the driver cannot work.
    pub(crate) fn probe(place: &Path, root: &File, user_xattr: Option<bool>) -> Result<Self> {
        let name = mica_tree::file_system(root.as_fd()).unwrap_or_else(|_| "this file system".to_owned());
        let site = Site { place, name: &name };
        let user_xattr = site.attributes(user_xattr)?;
        site.types()?;
        let volatile = site.try_out(Trial { volatile: true, user_xattr }).is_ok();
        if !volatile {
            site.try_out(Trial { volatile: false, user_xattr })?;
        }
        let id_maps = match site.try_id_map(Trial { volatile, user_xattr }) {
            Ok(()) => Support::Yes,
            Err(_) => Support::no(format!(
                "overlayfs on {name} takes no id-mapped layers here; ext4, xfs and btrfs do for root since Linux 5.19"
            )),
        };
        Ok(Self { user_xattr, volatile, id_maps })
    }
}

/// How an overlay is tried out.
#[derive(Clone, Copy)]
struct Trial {
    volatile: bool,
    user_xattr: bool,
}

/// The tree: a file that is deleted, a directory that is replaced, one that is renamed, in two lower layers.
const DELETED: &str = "deleted";
const REPLACED: &str = "replaced";
const RENAMED: &str = "renamed";

struct Site<'a> {
    place: &'a Path,
    name: &'a str,
}

impl Site<'_> {
    fn unavailable(&self, why: impl std::fmt::Display) -> Error {
        let name = self.name;
        Error::Unavailable {
            reason: format!(
                "overlayfs cannot keep layers on {name}: {why}; use a directory on ext4, xfs or btrfs"
            ),
        }
    }

    /// Which kind of attribute overlayfs can use; those in `trusted.` need privileges over the whole host.
    fn attributes(&self, asked: Option<bool>) -> Result<bool> {
        let set = |name: &str| rustix::fs::setxattr(self.place, name, b"y", XattrFlags::empty());
        let user_xattr = match asked {
            Some(asked) => asked,
            None => set("trusted.overlay.mica") == Err(Errno::PERM),
        };
        let kind = if user_xattr { "user" } else { "trusted" };
        match set(&format!("{kind}.overlay.mica")) {
            Ok(()) => Ok(user_xattr),
            Err(Errno::PERM) => {
                Err(self.unavailable("'trusted.' attributes need root outside of user namespaces"))
            }
            Err(e) => Err(self.unavailable(format!("it keeps no '{kind}.' extended attributes ({e})"))),
        }
    }

    /// Overlayfs reads from a directory which of its entries are directories and which are whiteouts.
    fn types(&self) -> Result<()> {
        let doing = || "look at the file system";
        File::create(self.place.join("entry")).map_err(Error::io(doing))?;
        let dir = File::open(self.place).map_err(Error::io(doing))?;
        let entries = rustix::fs::Dir::read_from(&dir).map_err(|e| Error::io(doing)(e.into()))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(doing)(e.into()))?;
            if entry.file_type() == rustix::fs::FileType::Unknown {
                return Err(self.unavailable(
                    "it keeps no file types in directories (d_type; for xfs, make it with 'mkfs.xfs -n ftype=1')",
                ));
            }
        }
        Ok(())
    }

    /// Deletes, replaces and renames in an overlay, and looks at what became of it in the upper directory.
    fn try_out(&self, trial: Trial) -> Result<()> {
        let name = if trial.volatile { "volatile" } else { "plain" };
        let (overlay, upper) = self.overlay(name, trial)?;
        let tree = self.mount(overlay)?;
        let used = self.use_tree(tree.path(), &upper, trial.user_xattr);
        tree.close()?;
        used.map_err(Error::io(|| "try out an overlay"))?.map_err(|why| self.unavailable(why))
    }

    fn use_tree(&self, tree: &Path, upper: &Path, user_xattr: bool) -> io::Result<Result<(), &'static str>> {
        fs::remove_file(tree.join(DELETED))?;
        fs::remove_dir_all(tree.join(REPLACED))?;
        fs::create_dir(tree.join(REPLACED))?;
        let moved = fs::rename(tree.join(RENAMED), tree.join("moved"));
        if !moved.is_err_and(|e| e.kind() == io::ErrorKind::CrossesDevices) {
            return Ok(Err("a renamed directory is redirected, against what the mount asks for"));
        }
        if !fs::symlink_metadata(upper.join(DELETED))?.file_type().is_char_device() {
            return Ok(Err("a deleted file leaves no whiteout"));
        }
        let opaque = if user_xattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        let mut mark = [0u8; 1];
        match rustix::fs::getxattr(upper.join(REPLACED), opaque, &mut mark[..]) {
            Ok(1) if mark == *b"y" => Ok(Ok(())),
            _ => Ok(Err("a replaced directory is not marked as opaque")),
        }
    }

    /// Mounts with shifted owners, writes, and looks at whose the files are on both sides.
    fn try_id_map(&self, trial: Trial) -> Result<()> {
        const TO: u32 = 100_000;
        let ids = vec![IdRange { disk: 0, tree: TO, count: 1000 }];
        let (overlay, upper) = self.overlay("mapped", trial)?;
        let tree = self.mount(Overlay { id_map: Some(IdMap { uids: ids.clone(), gids: ids }), ..overlay })?;
        let use_tree = || {
            let shown = fs::metadata(tree.path().join(DELETED))?.uid();
            std::os::unix::fs::chown(tree.path().join(DELETED), Some(TO + 1), None)?;
            io::Result::Ok((shown, fs::metadata(upper.join(DELETED))?.uid()))
        };
        let owners = use_tree().map_err(Error::io(|| "try out an id-mapped overlay"))?;
        tree.close()?;
        if owners == (TO, 1) { Ok(()) } else { Err(self.unavailable("id maps have no effect")) }
    }

    /// Two lower directories, an upper and a work directory.
    fn overlay(&self, name: &str, trial: Trial) -> Result<(Overlay, PathBuf)> {
        let dir = self.place.join(name);
        let make = || {
            for below in ["upper", "work", "low", "lower"] {
                fs::create_dir_all(dir.join(below))?;
            }
            File::create(dir.join("low").join(DELETED))?;
            fs::create_dir(dir.join("lower").join(REPLACED))?;
            fs::create_dir(dir.join("lower").join(RENAMED))
        };
        make().map_err(Error::io(|| "make an overlay to try out"))?;
        let upper = dir.join("upper");
        let overlay = Overlay {
            lowers: vec![dir.join("low"), dir.join("lower")],
            upper: Some(Upper { dir: upper.clone(), work: dir.join("work") }),
            user_xattr: trial.user_xattr,
            volatile: trial.volatile,
            ..Overlay::default()
        };
        Ok((overlay, upper))
    }

    fn mount(&self, overlay: Overlay) -> Result<Tree> {
        let mounts = Mounts { specs: vec![MountSpec::Overlay(overlay)], whiteouts: WhiteoutForm::Merged };
        Mounter::new(self.place).open(&mounts).map_err(|error| match error {
            Error::Driver { source, .. } => self.unavailable(source),
            Error::Unavailable { .. } => Error::Unavailable {
                reason: "the running kernel has no overlayfs; load its module with 'modprobe overlay'"
                    .to_owned(),
            },
            other => other,
        })
    }
}
