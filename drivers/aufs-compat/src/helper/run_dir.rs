//! What is shown of the branches of a mount, in files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::branches::BranchSpec;

/// A directory with a file for each branch, removed when this value is dropped.
///
/// It is held by `flock`, so that one that a killed server left behind can be told and is removed by the next one.
#[derive(Debug)]
pub(super) struct RunDir {
    root: PathBuf,
    id: String,
    _lock: File,
}

impl RunDir {
    /// Makes `root/si_ID`, with a file for each branch.
    pub(super) fn make(root: &Path, id: &str, branches: &[BranchSpec]) -> io::Result<Self> {
        make_dir(root, true)?;
        // Nobody sweeps what is not held yet.
        let gate = File::open(root)?;
        rustix::fs::flock(&gate, FlockOperation::LockExclusive)?;
        sweep(root);
        let path = root.join(name(id));
        make_dir(&path, false)?;
        let lock = File::open(&path)?;
        rustix::fs::flock(&lock, FlockOperation::LockShared)?;
        let made = Self { root: root.to_owned(), id: id.to_owned(), _lock: lock };
        for (index, branch) in branches.iter().enumerate() {
            let file = path.join(format!("br{index}"));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(file)?;
            file.write_all(&[branch.text().as_bytes(), b"\n"].concat())?;
        }
        Ok(made)
    }
}

/// With a mode, since a server has no umask.
fn make_dir(path: &Path, or_there: bool) -> io::Result<()> {
    DirBuilder::new().mode(0o755).recursive(or_there).create(path)
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.root, &name(&self.id));
    }
}

/// Makes `root/DEVICE` a name of what is shown of the mount that has that device, such as `0:57`, as `mountpoint -d` prints it.
pub(crate) fn name_device(root: &Path, device: &str, id: &str) -> io::Result<()> {
    let link = root.join(device);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(name(id), link)
}

fn name(id: &str) -> String {
    format!("si_{id}")
}

/// Removes what nobody holds.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with("si_")).map(str::to_owned)
        else {
            continue;
        };
        let Ok(dir) = File::open(entry.path()) else { continue };
        if rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(root, &name);
        }
    }
}

/// Removes a directory and the links to it. What cannot be removed is left to the next sweep, or to the next start of the host.
fn remove(root: &Path, name: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir_all(root.join(name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branches::parse_list;

    #[test]
    fn branches_are_shown_as_aufs_shows_them_and_only_while_they_are_served() {
        let root = tempfile::tempdir().unwrap();
        let branches = parse_list(b"/a/diff/x=rw:/a/diff/y=ro+wh", true).unwrap();
        let shown = RunDir::make(root.path(), "1f", &branches).unwrap();
        name_device(root.path(), "0:57", "1f").unwrap();
        assert_eq!(fs::read_to_string(root.path().join("si_1f/br0")).unwrap(), "/a/diff/x=rw\n");
        assert_eq!(fs::read_to_string(root.path().join("0:57/br1")).unwrap(), "/a/diff/y=ro+wh\n");
        drop(shown);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_server_left_is_removed_and_what_is_served_is_not() {
        let root = tempfile::tempdir().unwrap();
        let live = RunDir::make(root.path(), "1", &[]).unwrap();
        fs::create_dir(root.path().join("si_2")).unwrap();
        name_device(root.path(), "0:2", "2").unwrap();
        let next = RunDir::make(root.path(), "3", &[]).unwrap();
        let mut left: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["si_1", "si_3"]);
        drop((live, next));
    }
}
