//! Changes that are told wrong.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use mica_core::{Chain, Changes, GraphDriver, LayerId, Result, Trees, WhiteoutForm};

use crate::fault::Fault;
use crate::plain::Plain;
use crate::trees::{inode, walk};

/// Declares a driver that tells the changes of a layer so.
macro_rules! tells {
    ($fault:ident, $tell:expr) => {
        #[derive(Debug, Default)]
        struct $fault;

        impl Fault for $fault {
            fn changes(&self, plain: &Plain, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
                plain.changes(chain, trees)?;
                let tell: fn(&Plain, Chain<'_>) -> Changes = $tell;
                Ok(tell(plain, chain))
            }
        }
    };
}

/// All but the files that are the same as the parent's by this.
fn unless_same<T: PartialEq>(plain: &Plain, chain: Chain<'_>, known: fn(&Metadata) -> T) -> Changes {
    let Some(parent) = chain.parent() else { return Changes::Compare { only: None } };
    let (tree, below) = (plain.tree(chain.id), plain.tree(parent));
    let differs = |path: &Path| {
        let now = fs::symlink_metadata(path).unwrap();
        let then = fs::symlink_metadata(below.join(path.strip_prefix(&tree).unwrap()));
        then.map_or(true, |then| now.is_dir() || known(&then) != known(&now))
    };
    let all = walk(&tree).into_iter().chain([tree.clone()]);
    Changes::Compare { only: Some(all.filter(|path| differs(path)).map(|path| inode(&path)).collect()) }
}

// Another size or time tells files apart, as in many a tool.
tells!(TrustsTimes, |plain, chain| unless_same(plain, chain, |m| {
    (m.mtime(), m.mtime_nsec(), m.len(), m.mode(), m.uid(), m.gid())
}));

tells!(LooksAtLengths, |plain, chain| unless_same(plain, chain, Metadata::len));

// What is known by its name and content from another place in the parent counts as there already.
tells!(TellsNoMoves, |plain, chain| {
    let Some(parent) = chain.parent() else { return Changes::Compare { only: None } };
    let (tree, below) = (plain.tree(chain.id), plain.tree(parent));
    let key = |path: &Path| (path.file_name().unwrap().to_owned(), fs::read(path).ok());
    let known: HashSet<_> = walk(&below).iter().map(|path| key(path)).collect();
    let moved = |path: &Path| {
        let is_new = fs::symlink_metadata(below.join(path.strip_prefix(&tree).unwrap())).is_err();
        is_new && path.is_file() && known.contains(&key(path))
    };
    let all = walk(&tree).into_iter().chain([tree.clone()]);
    Changes::Compare { only: Some(all.filter(|path| !moved(path)).map(|path| inode(&path)).collect()) }
});

tells!(TellsNoDirectories, |plain, chain| {
    let files = walk(&plain.tree(chain.id)).into_iter().filter(|path| !path.is_dir());
    Changes::Compare { only: Some(files.map(|path| inode(&path)).collect()) }
});

tells!(TellsTheWholeTree, |plain, chain| Changes::Upper {
    dir: plain.tree(chain.id),
    whiteouts: WhiteoutForm::Aufs,
});

tells!(TellsNothingOfWritable, |plain, chain| Changes::Compare {
    only: (!plain.is_committed(chain.id)).then(HashSet::new),
});

/// A duplicate counts as unchanged.
#[derive(Debug, Default)]
struct ForgetsChangesOfDuplicates {
    duplicates: Mutex<BTreeSet<LayerId>>,
}

impl Fault for ForgetsChangesOfDuplicates {
    fn duplicate(&self, plain: &Plain, from: Chain<'_>, to: &LayerId) -> Result<()> {
        plain.duplicate(from, to)?;
        self.duplicates.lock().unwrap().insert(to.clone());
        Ok(())
    }

    fn changes(&self, plain: &Plain, chain: Chain<'_>, trees: &dyn Trees) -> Result<Changes> {
        let known = self.duplicates.lock().unwrap().contains(chain.id);
        if known { Ok(Changes::Compare { only: Some(HashSet::new()) }) } else { plain.changes(chain, trees) }
    }
}

caught! {
    changes_by_time_and_size: TrustsTimes => [
        "changes-of-attributes",
        "changes-of-exchanged-files",
        "changes-unseen-by-time-and-size",
    ];
    changes_by_size: LooksAtLengths => [
        "changes-of-metadata",
        "changes-of-attributes",
        "changes-of-exchanged-files",
        "changes-unseen-by-time-and-size",
    ];
    changes_without_moves: TellsNoMoves => ["changes-of-renamed-directories", "changes-of-renames"];
    changes_without_directories: TellsNoDirectories => [
        "changes-of-files",
        "random-changes",
        "changes-apply-to-a-sibling",
        "changes-of-attributes",
        "changes-of-base",
        "changes-of-kinds",
        "changes-of-metadata",
        "changes-of-nothing",
        "changes-of-recreated-directories",
        "changes-of-renames",
        "changes-of-writable",
        "changes-unseen-by-time-and-size",
        "duplicate",
        "changes-of-exchanged-files",
        "changes-of-renamed-directories",
    ];
    changes_that_are_everything: TellsTheWholeTree => [
        "changes-apply-to-a-sibling",
        "changes-of-files",
        "changes-of-recreated-directories",
        "changes-of-renames",
        "changes-of-writable",
        "duplicate",
        "changes-of-renamed-directories",
    ];
    no_changes_before_the_commit: TellsNothingOfWritable => ["changes-of-writable", "duplicate"];
    no_changes_of_duplicates: ForgetsChangesOfDuplicates => ["duplicate"];
}
