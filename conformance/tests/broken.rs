//! Deliberately broken drivers: each is caught, by the cases that are about its fault and by no other.
//!
//! What no case can tell: whether `sync` reached the disk. That takes a power cut; see the suite's README.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/fault.rs"]
mod fault;
#[path = "support/plain.rs"]
mod plain;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use fault::{Fault, is_caught_by};
use mica_core::mount::MountSpec;
use mica_core::{
    Access, Chain, Changes, Created, Error, GraphDriver, LayerId, LayerOptions, MountRequest, Mounts, Result,
    Trees, Usage,
};
use plain::Plain;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// Everything in a tree, the deepest first.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            paths.extend(walk(&entry.path()));
        }
        paths.push(entry.path());
    }
    paths
}

/// Declares a driver whose copy of a parent's tree is spoilt so.
macro_rules! spoils_copies {
    ($fault:ident, $spoil:expr) => {
        #[derive(Debug, Default)]
        struct $fault;

        impl Fault for $fault {
            fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
                let created = plain.create(chain, options)?;
                if chain.parent().is_some() {
                    let spoil: fn(&Plain, Chain<'_>, &Path) = $spoil;
                    spoil(plain, chain, &plain.tree(chain.id));
                }
                Ok(created)
            }
        }
    };
}

spoils_copies!(LosesAttributes, |_, _, tree| {
    for path in walk(tree).iter().map(PathBuf::as_path).chain([tree]) {
        let mut names = vec![0; 1 << 16];
        let length = rustix::fs::llistxattr(path, &mut *names).unwrap();
        for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
            rustix::fs::lremovexattr(path, name).unwrap();
        }
    }
});

#[test]
fn lost_extended_attributes() {
    is_caught_by::<LosesAttributes>(&[
        "access-control-lists",
        "changes-of-attributes",
        "extended-attributes",
        "file-capabilities",
        "root-attributes",
    ]);
}

spoils_copies!(LosesHardLinks, |_, _, tree| {
    for path in walk(tree) {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_file() && meta.nlink() > 1 {
            let aside = path.with_extension("aside");
            fs::copy(&path, &aside).unwrap();
            let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
            let modified = time(meta.mtime(), meta.mtime_nsec());
            let times = Timestamps { last_access: modified, last_modification: modified };
            rustix::fs::utimensat(CWD, &aside, &times, AtFlags::empty()).unwrap();
            std::os::unix::fs::lchown(&aside, Some(meta.uid()), Some(meta.gid())).unwrap();
            fs::set_permissions(&aside, meta.permissions()).unwrap();
            fs::rename(&aside, &path).unwrap();
        }
    }
});

#[test]
fn lost_hard_links() {
    is_caught_by::<LosesHardLinks>(&["hard-links", "hard-links-across-layers"]);
}

spoils_copies!(TruncatesTimes, |_, _, tree| {
    for path in walk(tree) {
        let meta = fs::symlink_metadata(&path).unwrap();
        let seconds = Timespec { tv_sec: meta.mtime(), tv_nsec: 0 };
        let times = Timestamps { last_access: seconds, last_modification: seconds };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
});

#[test]
fn times_in_whole_seconds() {
    is_caught_by::<TruncatesTimes>(&["times", "changes-unseen-by-time-and-size"]);
}

spoils_copies!(LosesSockets, |_, _, tree| {
    for path in walk(tree) {
        if fs::symlink_metadata(&path).unwrap().file_type().is_socket() {
            fs::remove_file(path).unwrap();
        }
    }
});

#[test]
fn lost_sockets() {
    is_caught_by::<LosesSockets>(&["sockets"]);
}

spoils_copies!(FillsHoles, |_, _, tree| {
    for path in walk(tree) {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_file() && meta.blocks() * 512 < meta.len() {
            let file = File::options().write(true).open(&path).unwrap();
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, meta.len()).unwrap();
        }
    }
});

#[test]
fn holes_that_take_space() {
    is_caught_by::<FillsHoles>(&["sparse-files"]);
}

spoils_copies!(ResetsRoot, |_, _, tree| {
    fs::set_permissions(tree, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
});

#[test]
fn root_that_is_always_0755() {
    is_caught_by::<ResetsRoot>(&["root-is-inherited"]);
}

spoils_copies!(LosesDeepChains, |_, chain, tree| {
    if chain.depth() > 100 {
        for path in walk(tree) {
            if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }.unwrap();
        }
    }
});

#[test]
fn chains_that_are_cut_at_100() {
    is_caught_by::<LosesDeepChains>(&["chain-of-128", "chain-of-500"]);
}

/// A directory that was removed and made again shows the parent's entries.
#[derive(Debug, Default)]
struct ForgetsOpaque {
    copied: Mutex<std::collections::HashMap<LayerId, HashSet<u64>>>,
}

impl Fault for ForgetsOpaque {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options)?;
        let inodes =
            walk(&plain.tree(chain.id)).iter().map(|p| fs::symlink_metadata(p).unwrap().ino()).collect();
        self.copied.lock().unwrap().insert(chain.id.clone(), inodes);
        Ok(created)
    }

    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        let copied = self.copied.lock().unwrap().remove(chain.id);
        if let (Some(copied), Some(parent)) = (copied, chain.parent()) {
            let (tree, below) = (plain.tree(chain.id), plain.tree(parent));
            for old in walk(&below).iter().rev() {
                let path = tree.join(old.strip_prefix(&below).unwrap());
                let above = path.parent().unwrap();
                let made_again = above != tree
                    && above.is_dir()
                    && !copied.contains(&fs::symlink_metadata(above).unwrap().ino());
                if made_again && old.parent().unwrap().is_dir() && fs::symlink_metadata(&path).is_err() {
                    if old.is_dir() { fs::create_dir(&path) } else { fs::copy(old, &path).map(drop) }
                        .unwrap();
                }
            }
        }
        plain.commit(chain)
    }
}

#[test]
fn forgotten_opaque_directories() {
    is_caught_by::<ForgetsOpaque>(&[
        "directory-recreated",
        "renames-within-a-layer",
        "changes-of-recreated-directories",
    ]);
}

/// The mark of a commit is in memory alone.
#[derive(Debug, Default)]
struct ForgetsCommits;

impl Fault for ForgetsCommits {
    fn opened(&self, plain: &Plain, _: &Path) -> Result<()> {
        for id in plain.list()? {
            let _ = fs::remove_file(plain.layer(&id).join("committed"));
        }
        Ok(())
    }
}

#[test]
fn commits_that_are_forgotten() {
    is_caught_by::<ForgetsCommits>(&[
        "mounts-of-committed-layer",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "crash-after-commit",
        "crash-among-removals",
        "parallel-processes",
    ]);
}

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

#[test]
fn leaked_mounts() {
    is_caught_by::<LeaksMounts>(&["leaves-no-mounts"]);
}

#[derive(Debug, Default)]
struct LeaksDescriptors;

impl Fault for LeaksDescriptors {
    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        let usage = plain.usage(chain)?;
        std::mem::forget(File::open(plain.layer(chain.id)));
        Ok(usage)
    }
}

#[test]
fn leaked_descriptors() {
    is_caught_by::<LeaksDescriptors>(&["leaves-no-descriptors"]);
}

#[derive(Debug, Default)]
struct ReadIsWritable;

impl Fault for ReadIsWritable {
    fn mounts(&self, plain: &Plain, chain: Chain<'_>, request: &MountRequest) -> Result<Mounts> {
        let mut mounts = plain.mounts(chain, request)?;
        for spec in &mut mounts.specs {
            if let MountSpec::Bind(bind) = spec {
                bind.read_only = false;
            }
        }
        Ok(mounts)
    }
}

#[test]
fn read_that_can_be_written() {
    is_caught_by::<ReadIsWritable>(&["read-is-read-only"]);
}

#[derive(Debug, Default)]
struct RemovesOnce;

impl Fault for RemovesOnce {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        if plain.layer(id).exists() { plain.remove(id) } else { Err(Error::no_layer(id)) }
    }
}

#[test]
fn remove_that_is_not_idempotent() {
    is_caught_by::<RemovesOnce>(&["remove-is-idempotent"]);
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

#[test]
fn release_that_is_not_idempotent() {
    is_caught_by::<ReleasesOnce>(&["release-is-idempotent"]);
}

#[derive(Debug, Default)]
struct ListsCommittedOnly;

impl Fault for ListsCommittedOnly {
    fn list(&self, plain: &Plain) -> Result<Vec<LayerId>> {
        Ok(plain.list()?.into_iter().filter(|id| plain.is_committed(id)).collect())
    }
}

#[test]
fn list_without_writable_layers() {
    is_caught_by::<ListsCommittedOnly>(&[
        "list-is-exact",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "crash-among-removals",
        "leaves-no-files",
    ]);
}

/// A create that is refused has made a directory before.
#[derive(Debug, Default)]
struct LeavesDebris;

impl Fault for LeavesDebris {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options);
        if matches!(created, Err(Error::NotFound { .. } | Error::State { .. })) {
            fs::create_dir(plain.layer(chain.id)).unwrap();
        }
        created
    }
}

#[test]
fn debris_of_a_create_that_failed() {
    is_caught_by::<LeavesDebris>(&["create-on-missing-parent", "create-on-writable-parent"]);
}

#[derive(Debug, Default)]
struct StandsOnAnything;

impl Fault for StandsOnAnything {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let fake = chain.parent().map(|parent| plain.layer(parent).join("committed"));
        let fake = fake.filter(|mark| mark.parent().is_some_and(Path::exists) && !mark.exists());
        if let Some(mark) = &fake {
            File::create(mark).unwrap();
        }
        let created = plain.create(chain, options);
        fake.map(fs::remove_file);
        created
    }
}

#[test]
fn writable_layer_as_parent() {
    is_caught_by::<StandsOnAnything>(&["create-on-writable-parent"]);
}

#[derive(Debug, Default)]
struct SyncsAnything;

impl Fault for SyncsAnything {
    fn sync(&self, _: &Plain, _: &[LayerId]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn sync_that_looks_at_nothing() {
    is_caught_by::<SyncsAnything>(&["missing-layers"]);
}

/// Tells apart what has another size or time, as many a tool does.
#[derive(Debug, Default)]
struct TrustsTimes;

impl Fault for TrustsTimes {
    fn changes(&self, plain: &Plain, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        plain.changes(chain, trees)?;
        let Some(parent) = chain.parent() else { return Ok(Changes::Compare { only: None }) };
        let (tree, below) = (plain.tree(chain.id), plain.tree(parent));
        let differs = |path: &PathBuf| -> io::Result<bool> {
            let now = fs::symlink_metadata(path)?;
            let then = fs::symlink_metadata(below.join(path.strip_prefix(&tree).unwrap()));
            let known = |m: &fs::Metadata| {
                (m.mtime(), m.mtime_nsec(), m.len(), m.mode(), m.uid(), m.gid(), m.file_type())
            };
            Ok(then.map_or(true, |then| now.is_dir() || known(&then) != known(&now)))
        };
        let all = walk(&tree).into_iter().chain([tree.clone()]);
        let only = all.filter(|path| differs(path).unwrap());
        let inodes = only.map(|path| fs::symlink_metadata(path).unwrap().ino()).collect();
        Ok(Changes::Compare { only: Some(inodes) })
    }
}

#[test]
fn changes_by_time_and_size() {
    is_caught_by::<TrustsTimes>(&["changes-of-attributes", "changes-unseen-by-time-and-size"]);
}

/// Opening removes what is being made, whoever makes it.
#[derive(Debug, Default)]
struct CleansTooMuch;

impl Fault for CleansTooMuch {
    fn opened(&self, plain: &Plain, _: &Path) -> Result<()> {
        let unfinished = plain.list()?.into_iter().filter(|id| !plain.is_committed(id));
        unfinished.into_iter().try_for_each(|id| plain.remove(&id))
    }
}

#[test]
fn open_that_removes_what_others_make() {
    is_caught_by::<CleansTooMuch>(&[
        "restart",
        "open-leaves-the-living-alone",
        "list-is-exact",
        "in-use-by-writer",
        "parallel-processes",
    ]);
}

/// A removal that was cut short stays for ever.
#[derive(Debug, Default)]
struct CleansNothing;

impl Fault for CleansNothing {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if plain.layer(id).exists() {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let gone = format!("{id}.{}-{number}.gone", std::process::id());
            fs::rename(plain.layer(id), plain.layer(id).with_file_name(gone)).unwrap();
        }
        Ok(())
    }

    fn list(&self, plain: &Plain) -> Result<Vec<LayerId>> {
        Ok(plain.list()?.into_iter().filter(|id| !id.as_str().ends_with(".gone")).collect())
    }
}

#[test]
fn remove_that_only_renames() {
    is_caught_by::<CleansNothing>(&["leaves-no-files", "crash-among-removals"]);
}

/// A removal that is cut short leaves a layer of which a part is gone.
#[derive(Debug, Default)]
struct RemovesInPlace;

impl Fault for RemovesInPlace {
    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        if plain.layer(id).exists() {
            fs::remove_dir_all(plain.tree(id)).unwrap();
        }
        plain.remove(id)
    }
}

#[test]
fn remove_that_deletes_in_place() {
    is_caught_by::<RemovesInPlace>(&["crash-at-any-moment"]);
}

#[derive(Debug, Default)]
struct TellsNoUsage;

impl Fault for TellsNoUsage {
    fn usage(&self, plain: &Plain, chain: Chain<'_>) -> Result<Usage> {
        plain.usage(chain).map(|_| Usage::default())
    }
}

#[test]
fn usage_of_nothing() {
    is_caught_by::<TellsNoUsage>(&["usage", "usage-of-child"]);
}

#[derive(Debug, Default)]
struct PanicsAtLongIds;

impl Fault for PanicsAtLongIds {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        assert!(chain.id.as_str().len() < 100, "no id is so long");
        plain.create(chain, options)
    }
}

#[test]
fn panic_at_a_long_id() {
    is_caught_by::<PanicsAtLongIds>(&["ids-do-not-collide"]);
}
