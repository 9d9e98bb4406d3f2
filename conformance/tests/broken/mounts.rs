//! Trees that are not what was asked for.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use mica_core::mount::{Bind, MountSpec};
use mica_core::{Access, Chain, Error, GraphDriver, LayerId, MountRequest, Mounts, Result, WhiteoutForm};

use crate::fault::Fault;
use crate::plain::Plain;
use crate::trees::{empty, is_directory};

/// Declares a driver whose mounts are changed so.
macro_rules! spoils_mounts {
    ($fault:ident, $spoil:expr) => {
        #[derive(Debug, Default)]
        struct $fault;

        impl Fault for $fault {
            fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
                let mut mounts = plain.mounts(chain, request)?;
                let spoil: fn(&Plain, Chain<'_>, &MountRequest, &mut Mounts) = $spoil;
                spoil(plain, chain, request, &mut mounts);
                Ok(mounts)
            }
        }
    };
}

/// The mount of the tree itself.
fn tree(mounts: &mut Mounts) -> &mut Bind {
    match &mut mounts.specs[0] {
        MountSpec::Bind(bind) => bind,
        other => panic!("the plain driver returned {other:?}"),
    }
}

spoils_mounts!(ReadIsWritable, |_, _, _, mounts| tree(mounts).read_only = false);

spoils_mounts!(ReadsParentOfWritable, |plain, chain, request, mounts| {
    if let (Access::Read, false, Some(parent)) =
        (request.access, plain.is_committed(chain.id), chain.parent())
    {
        tree(mounts).source = plain.tree(parent);
    }
});

spoils_mounts!(NamesWrongForm, |_, _, request, mounts| {
    if request.access == Access::Apply {
        mounts.whiteouts = WhiteoutForm::Aufs;
    }
});

spoils_mounts!(LosesApplied, |plain, chain, request, mounts| {
    if request.access == Access::Apply {
        let elsewhere = plain.aside_dir().join(format!("apply-{:.100}", chain.id));
        fs::create_dir_all(&elsewhere).unwrap();
        tree(mounts).source = elsewhere;
    }
});

spoils_mounts!(KeepsTreesOpen, |plain, chain, _, _| {
    std::mem::forget(File::open(plain.tree(chain.id)));
});

// Each directory of the parent is a mount of its own, where nothing can be written.
spoils_mounts!(FreezesLowerDirectories, |plain, chain, request, mounts| {
    let (Access::Write, Some(parent)) = (request.access, chain.parent()) else { return };
    for entry in fs::read_dir(plain.tree(parent)).unwrap() {
        let name = entry.unwrap().file_name();
        let source = plain.tree(chain.id).join(&name);
        if is_directory(&source) {
            let own = Bind { source, target: name.into(), read_only: true, ..Bind::default() };
            mounts.specs.push(MountSpec::Bind(own));
        }
    }
});

#[derive(Debug, Default)]
struct LeaksMounts {
    leaked: OnceLock<()>,
}

impl Fault for LeaksMounts {
    fn opened(&self, _: &Plain, root: &Path) -> Result<()> {
        fs::create_dir_all(root.join("leak")).map_err(Error::io(|| "make a directory"))
    }

    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let mounts = plain.mounts(chain, request)?;
        let leak = plain.aside_dir().with_file_name("leak");
        self.leaked.get_or_init(|| rustix::mount::mount_bind(&leak, &leak).unwrap());
        Ok(mounts)
    }
}

#[derive(Debug, Default)]
struct MountsAnything;

impl Fault for MountsAnything {
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        match plain.mounts(chain, request) {
            Err(Error::NotFound { .. }) => Ok(Mounts { specs: Vec::new(), whiteouts: WhiteoutForm::Merged }),
            other => other,
        }
    }
}

/// A layer that was mounted volatile once is not mounted again, as overlayfs has it (Documentation, "Volatile mount").
#[derive(Debug, Default)]
struct DistrustsVolatile {
    spoilt: Mutex<BTreeSet<LayerId>>,
}

impl Fault for DistrustsVolatile {
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let mut spoilt = self.spoilt.lock().unwrap();
        if spoilt.contains(chain.id) {
            return Err(Error::driver("mount", "it was mounted volatile"));
        }
        if request.options.volatile {
            spoilt.insert(chain.id.clone());
        }
        plain.mounts(chain, request)
    }
}

#[derive(Debug, Default)]
struct ReleasesOnce {
    active: Mutex<BTreeSet<LayerId>>,
}

impl Fault for ReleasesOnce {
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        self.active.lock().unwrap().insert(chain.id.clone());
        plain.mounts(chain, request)
    }

    fn release(&self, _: &Plain, chain: Chain<'_>, _: Access) -> Result<()> {
        let known = self.active.lock().unwrap().remove(chain.id);
        if known { Ok(()) } else { Err(Error::no_layer(chain.id)) }
    }
}

/// A layer that nobody released, and whose user is dead, counts as spoilt, and is emptied.
#[derive(Debug, Default)]
struct DistrustsUnreleased;

impl DistrustsUnreleased {
    fn mark(plain: &Plain, id: &LayerId) -> PathBuf {
        plain.layer(id).join("mounted")
    }
}

impl Fault for DistrustsUnreleased {
    fn opened(&self, plain: &Plain, _: &Path) -> Result<()> {
        for id in plain.list()? {
            let user = fs::read_to_string(Self::mark(plain, &id));
            if user.is_ok_and(|pid| !Path::new("/proc").join(pid).exists()) {
                empty(&plain.tree(&id));
                let _ = fs::remove_file(Self::mark(plain, &id));
            }
        }
        Ok(())
    }

    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let mounts = plain.mounts(chain, request)?;
        if request.access != Access::Read {
            fs::write(Self::mark(plain, chain.id), std::process::id().to_string()).unwrap();
        }
        Ok(mounts)
    }

    fn release(&self, plain: &Plain, chain: Chain<'_>, access: Access) -> Result<()> {
        if access != Access::Read {
            let _ = fs::remove_file(Self::mark(plain, chain.id));
        }
        plain.release(chain, access)
    }
}

caught! {
    read_that_can_be_written: ReadIsWritable => ["read-is-read-only"];
    read_that_shows_the_parent: ReadsParentOfWritable => [
        "read-of-writable",
        "duplicate",
        "duplicate-of-mounted",
        "duplicates-are-apart",
        "id-maps",
        "open-file-after-unlink",
        "siblings-are-apart",
        "volatile-mounts",
        "crash-while-mounted",
    ];
    whiteouts_of_another_form: NamesWrongForm => [
        "whiteout-form",
        "apply-in-turns",
        "apply-opaque",
        "apply-replaces-kinds",
        "apply-whiteouts",
        "changes-apply-to-a-sibling",
    ];
    lost_extractions: LosesApplied => [
        "apply",
        "apply-in-turns",
        "apply-opaque",
        "apply-over-parent",
        "apply-replaces-kinds",
        "apply-whiteouts",
        "changes-apply-to-a-sibling",
        "whiteout-form",
    ];
    trees_that_stay_open: KeepsTreesOpen => [
        "release-undoes-mounts",
        "create-twice",
        "leaves-no-descriptors",
    ];
    lower_directories_that_are_mounts: FreezesLowerDirectories => [
        "sockets-connect",
        "access-control-lists",
        "apply-in-turns",
        "chain-of-128",
        "changes-apply-to-a-sibling",
        "changes-of-attributes",
        "changes-of-files",
        "changes-of-kinds",
        "changes-of-metadata",
        "changes-of-recreated-directories",
        "changes-of-renames",
        "changes-of-writable",
        "changes-unseen-by-time-and-size",
        "crash-after-commit",
        "crash-while-filling",
        "deleted-files",
        "directory-inode-is-stable",
        "directory-metadata-through-commits",
        "directory-recreated",
        "directory-recreated-at-depth",
        "duplicate",
        "duplicate-of-mounted",
        "duplicates-are-apart",
        "emptied-lower-directory",
        "exclusive-create",
        "extended-attributes",
        "file-updates",
        "files-move-from-a-lower-layer",
        "getcwd",
        "kinds-replace-each-other",
        "leaves-no-descriptors",
        "leaves-no-devices",
        "leaves-no-files",
        "leaves-no-mounts",
        "long-paths",
        "mode-changes",
        "owner-changes",
        "parallel-creates",
        "parent-is-frozen",
        "remove-while-walking",
        "renames-of-lower-directories",
        "renames-within-a-layer",
        "times",
        "umask-does-not-matter",
        "changes-of-exchanged-files",
        "changes-of-renamed-directories",
        "crash-while-mounted",
    ];
    leaked_mounts: LeaksMounts => ["leaves-no-mounts"];
    mounts_of_nothing: MountsAnything => ["mounts-of-missing-layer"];
    volatile_mounts_that_are_the_last: DistrustsVolatile => ["volatile-mounts"];
    layers_that_are_lost_with_their_user: DistrustsUnreleased => ["crash-while-mounted"];
    release_that_is_not_idempotent: ReleasesOnce => ["release-is-idempotent"];
}
