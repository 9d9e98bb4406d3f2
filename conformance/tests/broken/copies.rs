//! Children that are no true copies of their parents.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mica_core::{Chain, Created, GraphDriver, LayerId, LayerOptions, Result};
use rustix::fs::{CWD, FallocateFlags, FileType, IFlags, Mode};

use crate::fault::Fault;
use crate::plain::Plain;
use crate::trees::{break_links, bring_back, chmod, empty, files, remove, set_time, truncate_times, walk};

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

spoils_copies!(LosesHardLinks, |_, _, tree| break_links(tree));

spoils_copies!(TruncatesTimes, |_, _, tree| truncate_times(tree));

spoils_copies!(LosesOwners, |_, _, tree| {
    for path in walk(tree) {
        let meta = fs::symlink_metadata(&path).unwrap();
        if (meta.uid(), meta.gid()) != (0, 0) {
            lchown(&path, Some(0), Some(0)).unwrap();
            if !meta.is_symlink() {
                fs::set_permissions(&path, meta.permissions()).unwrap();
            }
        }
    }
});

spoils_copies!(OpensSecrets, |_, _, tree| {
    for (path, meta) in files(tree).filter(|(_, meta)| meta.mode() & 0o077 == 0) {
        chmod(&path, meta.mode() & 0o7777 | 0o044);
    }
});

spoils_copies!(ObeysUmask, |_, _, tree| {
    let mask = rustix::process::umask(Mode::empty());
    rustix::process::umask(mask);
    if mask != Mode::from_raw_mode(0o022) {
        files(tree).for_each(|(path, meta)| chmod(&path, meta.mode() & 0o7777 & !mask.bits()));
    }
});

spoils_copies!(LosesSockets, |_, _, tree| {
    files(tree).filter(|(_, meta)| meta.file_type().is_socket()).for_each(|(path, _)| remove(&path));
});

spoils_copies!(LosesPipes, |_, _, tree| {
    files(tree).filter(|(_, meta)| meta.file_type().is_fifo()).for_each(|(path, _)| remove(&path));
});

spoils_copies!(CutsDeviceNumbers, |_, _, tree| {
    for (path, meta) in files(tree).filter(|(_, meta)| meta.file_type().is_char_device()) {
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()) & 0xff);
        remove(&path);
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), number).unwrap();
        lchown(&path, Some(meta.uid()), Some(meta.gid())).unwrap();
        fs::set_permissions(&path, meta.permissions()).unwrap();
    }
});

spoils_copies!(CutsLinks, |_, _, tree| {
    for path in walk(tree).into_iter().filter(|path| path.is_symlink()) {
        let target = fs::read_link(&path).unwrap();
        if let Some(start) = target.as_os_str().as_bytes().get(..1000) {
            remove(&path);
            symlink(std::ffi::OsStr::from_bytes(start), &path).unwrap();
        }
    }
});

spoils_copies!(FillsHoles, |_, _, tree| {
    for (path, meta) in files(tree) {
        if meta.is_file() && meta.blocks() * 512 < meta.len() {
            let file = File::options().write(true).open(&path).unwrap();
            rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, meta.len()).unwrap();
        }
    }
});

spoils_copies!(ResetsRoot, |_, _, tree| chmod(tree, 0o755));

spoils_copies!(UnderstandsNames, |_, _, tree| {
    let odd = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_str().is_none());
    walk(tree).iter().filter(|path| odd(path)).for_each(|path| remove(path));
});

spoils_copies!(CutsPaths, |_, _, tree| {
    let long = |path: &&PathBuf| path.strip_prefix(tree).unwrap().as_os_str().len() > 2000;
    walk(tree).iter().filter(long).for_each(|path| remove(path));
});

spoils_copies!(CutsDirectories, |_, _, tree| {
    for (path, _) in files(tree).filter(|(_, meta)| meta.is_dir()) {
        fs::read_dir(path).unwrap().skip(5000).for_each(|entry| remove(&entry.unwrap().path()));
    }
});

spoils_copies!(LosesDeepChains, |_, chain, tree| {
    if chain.depth() > 100 {
        empty(tree);
    }
});

// A copy made of hard links.
spoils_copies!(SharesFiles, |plain, chain, tree| {
    let below = plain.tree(chain.parent().unwrap());
    for (path, _) in files(tree).filter(|(_, meta)| meta.is_file()) {
        let original = below.join(path.strip_prefix(tree).unwrap());
        remove(&path);
        fs::hard_link(original, path).unwrap();
    }
});

/// The paths that a chain's grandparent has, if there is one.
fn grandparent(plain: &Plain, chain: Chain<'_>) -> Option<PathBuf> {
    chain.parents.get(1).map(|id| plain.tree(id))
}

// What has the length that it had two layers below is taken from there.
spoils_copies!(TrustsSizes, |plain, chain, tree| {
    let Some(below) = grandparent(plain, chain) else { return };
    for (path, meta) in files(tree).filter(|(_, meta)| meta.is_file()) {
        let old = below.join(path.strip_prefix(tree).unwrap());
        let same = fs::symlink_metadata(&old).is_ok_and(|old| old.is_file() && old.len() == meta.len());
        if same && fs::read(&old).unwrap() != fs::read(&path).unwrap() {
            fs::write(&path, fs::read(&old).unwrap()).unwrap();
            set_time(&path, meta.mtime(), meta.mtime_nsec());
        }
    }
});

// What a layer deleted is back in its child.
spoils_copies!(ForgetsWhiteouts, |plain, chain, tree| {
    if let Some(below) = grandparent(plain, chain) {
        bring_back(&below, tree, |_| true);
    }
});

/// The second child of a parent is empty.
#[derive(Debug, Default)]
struct HasOneChild {
    parents: Mutex<HashSet<LayerId>>,
}

impl Fault for HasOneChild {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options)?;
        if let Some(parent) = chain.parent()
            && !self.parents.lock().unwrap().insert(parent.clone())
        {
            empty(&plain.tree(chain.id));
        }
        Ok(created)
    }
}

/// What came from the parent can be added to, and not be changed, renamed or removed.
#[derive(Debug, Default)]
struct LetsLowerFilesGrow;

impl LetsLowerFilesGrow {
    fn flag(tree: &Path, flags: IFlags) {
        for (path, _) in files(tree).filter(|(_, meta)| meta.is_file()) {
            rustix::fs::ioctl_setflags(File::open(path).unwrap(), flags).unwrap();
        }
    }
}

impl Fault for LetsLowerFilesGrow {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options)?;
        Self::flag(&plain.tree(chain.id), IFlags::APPEND);
        Ok(created)
    }

    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        if plain.layer(chain.id).exists() {
            Self::flag(&plain.tree(chain.id), IFlags::empty());
        }
        plain.commit(chain)
    }

    fn remove(&self, plain: &Plain, id: &LayerId) -> Result<()> {
        if plain.layer(id).exists() {
            Self::flag(&plain.tree(id), IFlags::empty());
        }
        plain.remove(id)
    }
}

/// A duplicate has what its parent has, and nothing of the original's own.
#[derive(Debug, Default)]
struct DuplicatesParent;

impl Fault for DuplicatesParent {
    fn duplicate(&self, plain: &Plain, from: Chain<'_>, to: &LayerId) -> Result<()> {
        plain.duplicate(from, to)?;
        plain.remove(to)?;
        plain.create(Chain { id: to, parents: from.parents }, &LayerOptions::default()).map(drop)
    }
}

caught! {
    lost_extended_attributes: LosesAttributes => [
        "access-control-lists",
        "changes-of-attributes",
        "extended-attributes",
        "file-capabilities",
        "root-attributes",
    ];
    lost_hard_links: LosesHardLinks => ["hard-links", "hard-links-across-layers"];
    times_in_whole_seconds: TruncatesTimes => ["times", "changes-unseen-by-time-and-size"];
    lost_owners: LosesOwners => [
        "owner-changes",
        "random-edits",
        "changes-of-metadata",
        "child-shows-parent",
        "devices",
        "directory-metadata-through-commits",
        "symbolic-links",
        "times",
    ];
    modes_that_open_what_was_closed: OpensSecrets => [
        "permissions-count",
        "apply-opaque",
        "changes-of-metadata",
        "sparse-files",
        "times",
    ];
    copies_that_obey_the_umask: ObeysUmask => ["umask-does-not-matter"];
    lost_sockets: LosesSockets => ["sockets"];
    lost_pipes: LosesPipes => ["fifos", "extended-attributes"];
    device_numbers_of_eight_bits: CutsDeviceNumbers => ["devices"];
    links_of_a_thousand_bytes: CutsLinks => ["symbolic-links"];
    holes_that_take_space: FillsHoles => ["sparse-files"];
    root_that_is_always_0755: ResetsRoot => ["root-is-inherited"];
    lost_names_that_are_no_text: UnderstandsNames => ["odd-names"];
    lost_long_paths: CutsPaths => ["long-paths"];
    directories_of_five_thousand_names: CutsDirectories => ["large-directory"];
    chains_that_are_cut_at_100: LosesDeepChains => ["chain-of-128", "chain-of-500"];
    files_that_are_the_parents: SharesFiles => [
        "parent-is-frozen",
        "changes-of-attributes",
        "changes-of-files",
        "changes-of-kinds",
        "changes-of-metadata",
        "changes-of-nothing",
        "changes-of-renames",
        "changes-of-writable",
        "changes-unseen-by-time-and-size",
        "crash-after-commit",
        "crash-while-filling",
        "parallel-creates",
        "times",
        "changes-of-exchanged-files",
        "changes-of-renamed-directories",
        "crash-while-mounted",
    ];
    files_of_the_length_that_they_had: TrustsSizes => [
        "file-updates",
        "large-file",
        "changes-unseen-by-time-and-size",
        "files-move-from-a-lower-layer",
        "changes-of-exchanged-files",
    ];
    forgotten_whiteouts: ForgetsWhiteouts => [
        "deleted-files",
        "apply-opaque",
        "apply-whiteouts",
        "chain-of-128",
        "changes-of-files",
        "changes-of-recreated-directories",
        "changes-of-renames",
        "deleted-then-made-again",
        "directory-metadata-through-commits",
        "directory-recreated",
        "directory-recreated-at-depth",
        "file-capabilities",
        "files-move-from-a-lower-layer",
        "odd-names",
        "renames-of-lower-directories",
        "changes-of-renamed-directories",
    ];
    parents_of_one_child: HasOneChild => [
        "intermediate-layers",
        "changes-apply-to-a-sibling",
        "crash-while-filling",
        "leaves-no-descriptors",
        "leaves-no-devices",
        "leaves-no-files",
        "leaves-no-mounts",
        "parallel-creates",
        "parallel-lives",
        "siblings-are-apart",
    ];
    lower_files_that_only_grow: LetsLowerFilesGrow => [
        "open-file-for-writing",
        "apply-in-turns",
        "apply-opaque",
        "apply-over-parent",
        "apply-replaces-kinds",
        "apply-whiteouts",
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
        "chmod-of-open-file",
        "crash-after-commit",
        "deleted-files",
        "deleted-then-made-again",
        "directory-metadata-through-commits",
        "directory-recreated",
        "directory-recreated-at-depth",
        "duplicate",
        "duplicate-of-mounted",
        "duplicates-are-apart",
        "emptied-lower-directory",
        "exclusive-create",
        "extended-attributes",
        "file-capabilities",
        "file-updates",
        "files-move-from-a-lower-layer",
        "hard-links",
        "hard-links-to-lower-files",
        "id-maps",
        "kinds-replace-each-other",
        "list-is-exact",
        "long-paths",
        "mode-changes",
        "mounts-of-committed-layer",
        "odd-names",
        "open-file-across-first-write",
        "open-file-after-unlink",
        "owner-changes",
        "parallel-creates",
        "parallel-lives",
        "parent-is-frozen",
        "permissions-count",
        "release-undoes-mounts",
        "remove-while-walking",
        "rename-exchange",
        "renames-within-a-layer",
        "restart",
        "siblings-are-apart",
        "times",
        "truncate-and-append",
        "changes-of-exchanged-files",
        "crash-while-mounted",
    ];
    duplicates_of_the_parent: DuplicatesParent => [
        "duplicate",
        "duplicate-of-mounted",
        "duplicates-are-apart",
    ];
}
