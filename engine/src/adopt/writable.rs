//! The layer of an old container: what may be taken of it, and how much it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use mica_core::WhiteoutForm;
use mica_tree::Visit;
use rustix::buffer::{SpareCapacity, spare_capacity};
use rustix::fs::{FileType, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::layer::write_changes;
use super::root::OldRoot;
use crate::{Error, Result};

/// Where AUFS keeps second names of files whose other names are in a branch below.
const PSEUDO_LINKS: &[u8] = b".wh..wh.plnk";
/// How the names begin in which AUFS keeps directories that were renamed (option `dirren`).
const RENAMED: [&[u8]; 2] = [b".wh..wh..dr.", b".wh..wh.hino"];

/// A container's layer.
#[derive(Debug)]
pub(super) struct Writable {
    old: Arc<OldRoot>,
    directory: String,
    whiteouts: WhiteoutForm,
    files: OwnedFd,
}

/// What a look at it found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The bytes of its files.
    pub(super) bytes: u64,
    /// Why it cannot be taken.
    pub(super) refused: Option<String>,
    /// What is not as it should be, a sentence each.
    pub(super) warnings: Vec<String>,
}

impl Writable {
    pub(super) fn open(old: &Arc<OldRoot>, directory: String, whiteouts: WhiteoutForm) -> Result<Self> {
        let files = old.directory(&directory)?;
        let files = files.ok_or_else(|| Error::no_such("directory", old.shown(&directory)))?;
        Ok(Self { old: Arc::clone(old), directory, whiteouts, files })
    }

    /// The directory with what the container wrote.
    pub(super) fn files(&self) -> BorrowedFd<'_> {
        self.files.as_fd()
    }

    /// Looks at every file.
    pub(super) fn survey(&self) -> Result<Survey> {
        let mut look = Look::new(self.whiteouts);
        mica_tree::walk(self.files.as_fd(), &mut |visit| {
            look.at(&visit);
            Ok(())
        })
        .map_err(io::Error::from)
        .map_err(Error::io(|| format!("read '{}'", self.old.shown(&self.directory))))?;
        Ok(look.finish())
    }

    /// Writes it as a layer tarball.
    pub(super) fn write(&self, out: impl io::Write) -> Result<()> {
        write_changes(&self.files, self.whiteouts, out)
    }
}

struct Look {
    whiteouts: WhiteoutForm,
    survey: Survey,
    /// The directory of pseudo-links, if there is one.
    pseudo_links: Option<u64>,
    /// What has a name there, and what has several and one elsewhere.
    kept: BTreeMap<u64, Vec<u8>>,
    linked: BTreeSet<u64>,
}

impl Look {
    fn new(whiteouts: WhiteoutForm) -> Self {
        Self {
            whiteouts,
            survey: Survey::default(),
            pseudo_links: None,
            kept: BTreeMap::new(),
            linked: BTreeSet::new(),
        }
    }

    fn at(&mut self, visit: &Visit<'_>) {
        let is_file = FileType::from_raw_mode(visit.stat.st_mode) == FileType::RegularFile;
        let is_new = visit.stat.st_nlink < 2 || !self.linked.contains(&visit.stat.st_ino);
        match self.whiteouts {
            WhiteoutForm::Aufs if visit.name.starts_with(b".wh.") => return self.of_aufs(visit),
            WhiteoutForm::Aufs if Some(visit.parent) == self.pseudo_links => {
                self.kept.insert(visit.stat.st_ino, visit.name.to_vec());
                return;
            }
            WhiteoutForm::Aufs => {}
            _ => self.of_overlayfs(visit),
        }
        if is_file && is_new {
            self.survey.bytes += visit.stat.st_size.cast_unsigned();
        }
        if is_file && visit.stat.st_nlink > 1 {
            self.linked.insert(visit.stat.st_ino);
        }
    }

    fn of_aufs(&mut self, visit: &Visit<'_>) {
        if visit.name == PSEUDO_LINKS {
            self.pseudo_links = Some(visit.stat.st_ino);
        }
        if RENAMED.iter().any(|name| visit.name.starts_with(name)) {
            self.refuse(visit, "AUFS keeps a renamed directory there (dirren), which is not understood");
        }
    }

    fn of_overlayfs(&mut self, visit: &Visit<'_>) {
        let names = match attributes(visit.dir, visit.name) {
            Ok(names) => names,
            Err(error) => return self.refuse(visit, &format!("its attributes cannot be read: {error}")),
        };
        for name in names.split(|&byte| byte == 0) {
            let Some(mark) = name.strip_prefix(b"trusted.overlay.") else {
                if name.starts_with(b"user.overlay.") {
                    self.refuse(visit, "overlayfs was mounted without privileges, which is not understood");
                }
                continue;
            };
            match mark {
                b"origin" | b"impure" | b"nlink" | b"uuid" | b"protattr" | b"upper" => {}
                b"opaque" if value(visit.dir, visit.name, name).is_ok_and(|value| value == b"y") => {}
                b"metacopy" => {
                    self.refuse(visit, "overlayfs left its content in a layer below (metacopy=on)");
                }
                b"redirect" => {
                    self.refuse(visit, "overlayfs renamed it without what is below (redirect_dir=on)");
                }
                mark => {
                    let mark = mark.escape_ascii();
                    self.refuse(
                        visit,
                        &format!("overlayfs marked it with '{mark}', which is not understood"),
                    );
                }
            }
        }
    }

    fn refuse(&mut self, visit: &Visit<'_>, why: &str) {
        let name = visit.name.escape_ascii();
        self.survey.refused.get_or_insert_with(|| format!("its file '{name}' cannot be taken: {why}"));
    }

    fn finish(mut self) -> Survey {
        let lost: Vec<String> = self
            .kept
            .iter()
            .filter(|(inode, _)| !self.linked.contains(inode))
            .map(|(_, name)| name.escape_ascii().to_string())
            .collect();
        if !self.kept.is_empty() {
            self.survey.warnings.push(
                "AUFS was not unmounted in good order: of files with several names, those that were not written to since may \
                 show what the image has"
                    .to_owned(),
            );
        }
        if let Some(first) = lost.first() {
            self.survey.warnings.push(format!(
                "{} of its files are left out, for which only '.wh..wh.plnk' has a name, such as '{first}'",
                lost.len()
            ));
        }
        self.survey
    }
}

fn path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
}

/// The names of the attributes of a file, each with a NUL behind it.
fn attributes(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    ask(|buffer| llistxattr(path(dir, name), buffer))
}

fn value(dir: BorrowedFd<'_>, name: &[u8], attribute: &[u8]) -> io::Result<Vec<u8>> {
    ask(|buffer| lgetxattr(path(dir, name), attribute, buffer))
}

fn ask(call: impl Fn(SpareCapacity<'_, u8>) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    // XATTR_LIST_MAX and XATTR_SIZE_MAX.
    let mut buffer = Vec::with_capacity(1 << 16);
    match call(spare_capacity(&mut buffer)) {
        Ok(_) => Ok(buffer),
        Err(Errno::OPNOTSUPP | Errno::NODATA) => Ok(Vec::new()),
        Err(errno) => Err(errno.into()),
    }
}
