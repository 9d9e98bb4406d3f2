//! Names of hard links that a mount still has to make.
//!
//! While a layer is mounted, a file of a parent that has several names and was copied up has some of them in the parent
//! only. The mount makes them when it ends. Where its helper was killed, or while it lives, they are made here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::branches::BranchSpec;
use crate::union::name::PSEUDO_LINKS;
use crate::union::{Options, Union, branch};

fn directory(diff: &Path) -> PathBuf {
    diff.join(String::from_utf8_lossy(PSEUDO_LINKS).as_ref())
}

/// The files of a writable branch that have names to be made.
fn list(diff: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory(diff)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

/// Whether there are names to be made.
pub(super) fn are_waiting(diff: &Path) -> io::Result<bool> {
    Ok(!list(diff)?.is_empty())
}

/// Gives what waits in the copy of a branch the names that it has there: they end with an inode number.
pub(super) fn rename_copied(diff: &Path) -> io::Result<()> {
    for entry in list(diff)? {
        let name = entry.file_name();
        if let Some((number, _)) = name.to_str().and_then(|name| name.split_once('.')) {
            let inode = entry.metadata()?.ino();
            fs::rename(entry.path(), entry.path().with_file_name(format!("{number}.{inode}")))?;
        }
    }
    Ok(())
}

/// Makes the names, in the first of these branches.
pub(super) fn make(branches: Vec<BranchSpec>) -> io::Result<()> {
    let branch = |BranchSpec { path, permission }| branch::BranchSpec {
        path,
        writable: permission.is_writable(),
        whiteouts: permission.has_whiteouts(),
    };
    // A union looks after what was left when it is opened.
    Union::open(branches.into_iter().map(branch).collect(), Options::default())?;
    Ok(())
}
