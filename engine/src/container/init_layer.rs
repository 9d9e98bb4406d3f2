//! The layer between an image and its containers: the mount points and empty files that every container needs.
//!
//! It exists so that what is mounted over them never shows up as a change of a container: a commit leaves them out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use mica_core::Trees;
use mica_runtime::{Missing, open_or_make, open_path};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::io::Errno;

use crate::{Error, Result};

/// Where the runtime puts the kernel's file systems, and follows no link.
const KERNEL: [&str; 2] = ["proc", "sys"];
const DIRECTORIES: [&str; 3] = ["dev/pts", "dev/shm", "etc"];
const FILES: [&str; 4] = ["dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// The paths that belong to the layer of mount points and not to a container. A file beside them, such as `dev/null.bak` or
/// `etc/passwd`, is the container's own.
#[derive(Debug)]
pub(super) struct LeftOut<'a> {
    elsewhere: Cow<'a, BTreeSet<String>>,
}

impl<'a> LeftOut<'a> {
    /// With those that [`fill`] found `elsewhere`. Where they were not recorded they are looked for in the tree that the
    /// container stands on.
    pub(super) fn of(elsewhere: Option<&'a BTreeSet<String>>, trees: &dyn Trees) -> Result<Self> {
        if let Some(elsewhere) = elsewhere {
            return Ok(Self { elsewhere: Cow::Borrowed(elsewhere) });
        }
        let Some(below) = trees.parent()? else { return Ok(Self { elsewhere: Cow::default() }) };
        let doing = || format!("open '{}'", below.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, below, flags, Mode::empty()).map_err(|e| Error::io(doing)(e.into()))?;
        Ok(Self { elsewhere: Cow::Owned(elsewhere_in(root.as_fd())) })
    }

    /// Whether a path, relative to the root, is one of them.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        names().any(|name| name.as_bytes() == path)
            || std::str::from_utf8(path).is_ok_and(|path| self.elsewhere.contains(path))
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    KERNEL.into_iter().chain(["dev/pts", "dev/shm"]).chain(FILES).chain(["etc/mtab", ".dockerenv"])
}

/// Where the links of a tree lead those names that they lead elsewhere.
fn elsewhere_in(root: BorrowedFd<'_>) -> BTreeSet<String> {
    let found = names().filter_map(|name| resolved(root, name).filter(|path| path != name));
    found.collect()
}

/// The path, relative to the root, to which the links of the tree lead; but for the last one of `etc/mtab`, which leads to
/// `/proc`. `None` where that is nothing, or the root itself.
fn resolved(root: BorrowedFd<'_>, path: &str) -> Option<String> {
    let name_of = |fd: BorrowedFd<'_>| -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
    };
    let (parent, last) = path.rsplit_once('/').filter(|(_, last)| *last == "mtab").unwrap_or((path, ""));
    let found = open_path(root, parent.as_ref()).ok()?;
    let found = name_of(found.as_fd())?.join(last);
    let relative = found.strip_prefix(name_of(root)?).ok()?.to_str()?;
    (!relative.is_empty()).then(|| relative.to_owned())
}

/// Makes what is missing in a tree, where the runtime will look for it. What is there, of whatever kind, stays: it is the
/// image's. Returns the paths to which the image's links led.
pub(super) fn fill(root: BorrowedFd<'_>) -> Result<BTreeSet<String>> {
    make(root)?;
    Ok(elsewhere_in(root))
}

fn make(root: BorrowedFd<'_>) -> Result<()> {
    for path in KERNEL {
        match mkdirat(root, path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(path)(e)),
        }
    }
    let directories = DIRECTORIES.map(|path| (path, Missing::Directory));
    for (path, missing) in directories.into_iter().chain(FILES.map(|path| (path, Missing::File))) {
        match open_or_make(root, path.as_ref(), missing) {
            // Nothing can be made below a file, nor behind links that lead in a circle.
            Ok(_) | Err(Errno::LOOP | Errno::NOTDIR) => {}
            Err(e) => return Err(failed(path)(e)),
        }
    }
    let Ok(etc) = open_path(root, "etc".as_ref()) else { return Ok(()) };
    match symlinkat("/proc/mounts", &etc, "mtab") {
        Ok(()) | Err(Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(e) => Err(failed("etc/mtab")(e)),
    }
}

fn failed(path: &str) -> impl FnOnce(Errno) -> Error {
    let doing = format!("make '/{path}' for containers");
    move |e| Error::Io { doing, source: e.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{AtFlags, FileType, statat};

    use super::*;

    fn filled(dir: &Path) -> rustix::fd::OwnedFd {
        let root = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fill(root.as_fd()).unwrap();
        fill(root.as_fd()).unwrap();
        root
    }

    #[test]
    fn what_the_image_has_stays_and_its_links_lead_nowhere_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/hosts"), "mine").unwrap();
        std::fs::write(dir.path().join("sys"), "no directory").unwrap();
        symlink(outside.path(), dir.path().join("dev")).unwrap();
        let root = filled(dir.path());
        assert_eq!(std::fs::read(dir.path().join("etc/hosts")).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = dir.path().join(outside.path().strip_prefix("/").unwrap());
        assert!(inside.join("pts").is_dir() && inside.join("console").is_file());
        let stat = statat(&root, "etc/mtab", AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Symlink);
    }

    #[test]
    fn what_is_made_behind_links_is_left_out_there() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("etc")).unwrap();
        symlink("../run/names", dir.path().join("resolv.conf")).unwrap();
        symlink("devices", dir.path().join("dev")).unwrap();
        let elsewhere = fill(filled(dir.path()).as_fd()).unwrap();
        let left_out = LeftOut { elsewhere: Cow::Owned(elsewhere) };
        for out in ["hosts", "hostname", "mtab", "run/names", "devices/shm", "devices/console", "etc/hosts"] {
            assert!(left_out.has(out.as_bytes()), "{out}");
        }
        for own in ["", "run", "passwd", "devices", "devices/x", "dev"] {
            assert!(!left_out.has(own.as_bytes()), "{own}");
        }
    }

    #[test]
    fn only_the_mount_points_themselves_are_left_out() {
        let left_out = LeftOut { elsewhere: Cow::default() };
        for out in ["etc/hosts", "etc/mtab", "dev/shm", "proc"] {
            assert!(left_out.has(out.as_bytes()), "{out}");
        }
        for own in ["etc", "etc/hosts.bak", "dev", "dev/x", "procedure", "", "usr/etc/hosts"] {
            assert!(!left_out.has(own.as_bytes()), "{own}");
        }
    }
}
