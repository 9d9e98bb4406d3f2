//! Layers that are not what they were before their commit.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use mica_core::{Access, Chain, Created, Error, GraphDriver, LayerId, LayerOptions, Result};

use crate::fault::Fault;
use crate::plain::Plain;
use crate::trees::{
    break_links, bring_back, chmod, files, inode, is_directory, remove, truncate_times, walk,
};

/// Declares a driver that spoils a layer's tree so as it commits it.
macro_rules! spoils_commits {
    ($fault:ident, $spoil:expr) => {
        #[derive(Debug, Default)]
        struct $fault;

        impl Fault for $fault {
            fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
                if plain.layer(chain.id).exists() && !plain.is_committed(chain.id) {
                    let spoil: fn(&Plain, Chain<'_>, &Path) = $spoil;
                    spoil(plain, chain, &plain.tree(chain.id));
                }
                plain.commit(chain)
            }
        }
    };
}

spoils_commits!(BreaksHardLinks, |_, _, tree| break_links(tree));

spoils_commits!(LosesSpecialBits, |_, _, tree| {
    files(tree).for_each(|(path, meta)| chmod(&path, meta.mode() & 0o777));
});

spoils_commits!(ClosesEmptyBases, |_, chain, tree| {
    if chain.parent().is_none() && walk(tree).is_empty() {
        chmod(tree, 0o700);
    }
});

// A directory of the parent whose name is something else's now stays, and hides that.
spoils_commits!(KeepsDirectories, |plain, chain, tree| {
    let Some(below) = chain.parent().map(|parent| plain.tree(parent)) else { return };
    for path in walk(tree) {
        if !is_directory(&path) && is_directory(&below.join(path.strip_prefix(tree).unwrap())) {
            remove(&path);
            fs::create_dir(&path).unwrap();
        }
    }
});

// A directory that the parent had deleted, made again, shows what the grandparent had in it.
spoils_commits!(ForgetsLowerWhiteouts, |plain, chain, tree| {
    let [parent, grandparent, ..] = chain.parents else { return };
    let parent = plain.tree(parent);
    bring_back(&plain.tree(grandparent), tree, |path| !is_directory(&parent.join(path.parent().unwrap())));
});

/// A directory that was removed and made again shows the parent's entries.
#[derive(Debug, Default)]
struct ForgetsOpaque {
    copied: Mutex<HashMap<LayerId, HashSet<u64>>>,
}

impl Fault for ForgetsOpaque {
    fn create(&self, plain: &Plain, chain: Chain<'_>, options: &LayerOptions) -> Result<Created> {
        let created = plain.create(chain, options)?;
        let inodes = walk(&plain.tree(chain.id)).iter().map(|path| inode(path)).collect();
        self.copied.lock().unwrap().insert(chain.id.clone(), inodes);
        Ok(created)
    }

    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        let copied = self.copied.lock().unwrap().remove(chain.id);
        if let (Some(copied), Some(parent)) = (copied, chain.parent()) {
            let tree = plain.tree(chain.id);
            bring_back(&plain.tree(parent), &tree, |path| {
                let above = path.parent().unwrap();
                above != Path::new("") && !copied.contains(&inode(&tree.join(above)))
            });
        }
        plain.commit(chain)
    }
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

#[derive(Debug, Default)]
struct CommitsOnce;

impl Fault for CommitsOnce {
    fn commit(&self, plain: &Plain, chain: Chain<'_>) -> Result<()> {
        if plain.is_committed(chain.id) { Err(Error::committed(chain.id)) } else { plain.commit(chain) }
    }
}

/// When the last writer is gone, times are whole seconds.
#[derive(Debug, Default)]
struct TruncatesTimesAtRelease;

impl Fault for TruncatesTimesAtRelease {
    fn release(&self, plain: &Plain, chain: Chain<'_>, access: Access) -> Result<()> {
        if access != Access::Read && plain.layer(chain.id).exists() {
            truncate_times(&plain.tree(chain.id));
        }
        plain.release(chain, access)
    }
}

caught! {
    hard_links_that_break_at_commit: BreaksHardLinks => [
        "hard-links-to-lower-files",
        "apply",
        "changes-of-base",
        "duplicate",
        "hard-links",
        "hard-links-across-layers",
    ];
    lost_special_bits: LosesSpecialBits => [
        "mode-changes",
        "apply",
        "create-keeps-content",
        "directory-metadata-through-commits",
    ];
    empty_bases_that_are_closed: ClosesEmptyBases => [
        "create-empty",
        "root-attributes",
        "root-is-inherited",
    ];
    directories_that_stay_in_the_way: KeepsDirectories => [
        "kinds-replace-each-other",
        "apply-replaces-kinds",
        "changes-of-kinds",
    ];
    forgotten_whiteouts_of_the_parent: ForgetsLowerWhiteouts => [
        "directory-recreated-at-depth",
        "changes-of-kinds",
        "changes-of-recreated-directories",
    ];
    forgotten_opaque_directories: ForgetsOpaque => [
        "directory-recreated",
        "renames-within-a-layer",
        "changes-of-recreated-directories",
    ];
    commits_that_are_forgotten: ForgetsCommits => [
        "mounts-of-committed-layer",
        "crash-between-create-and-commit",
        "crash-while-filling",
        "crash-after-commit",
        "crash-among-removals",
        "parallel-processes",
    ];
    commit_that_is_not_idempotent: CommitsOnce => ["commit-is-idempotent"];
    times_that_a_release_cuts: TruncatesTimesAtRelease => [
        "create-keeps-content",
        "apply",
        "read-of-writable",
        "times",
    ];
}
