//! What a layer changed: as a list, and as a layer tarball.
//!
//! A driver says where the differences are ([`Changes`]): in a directory of the layer's own files, which is walked
//! alone, or in two whole trees, which are compared. Both give the same list and, member for member, the same layer.
//!
//! A tarball holds what is new or changed, the directories on the way to it, and deletions as whiteouts: `.wh.NAME`,
//! and `.wh..wh..opq` in a directory that hides what its parent has below it (OCI image specification, "layers"). Sockets
//! are left out, as other engines do: nobody can connect to a copy. All attributes are written as `SCHILY.xattr` records
//! in the kernel's form, ACLs too; other engines write `security.capability` alone, and set any. Names come in byte
//! order, so the same layer always gives the same bytes.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use mica_core::{Changes, Trees};
use rustix::fs::{Mode, OFlags};

use crate::tap::Tap;
use crate::writer::Writer;
use crate::{Error, Result};

mod compare;
mod file;
mod list;
mod tarball;
mod upper;

/// How a path differs from the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// Another content, other metadata, or a directory with a change below it.
    Modified,
    /// New.
    Added,
    /// Gone. What was below it is not told.
    Deleted,
}

/// One line of the list of changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// Relative to the root of the layer, without a leading slash. Bytes: nothing says that it is UTF-8.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
}

/// Decides which paths are left out, as if the layer had not touched them; a directory with all that is below it.
pub type LeftOut<'a> = &'a dyn Fn(&[u8]) -> bool;

/// The list of changes, sorted by path.
pub fn changes(changes: &Changes, trees: &dyn Trees, left_out: LeftOut<'_>) -> Result<Vec<Change>> {
    let mut list = list::List::default();
    match changes {
        Changes::Upper { dir, whiteouts } => {
            let below = upper::Below::tree(parent(trees)?);
            upper::walk(&open(dir)?, &below, *whiteouts, left_out, &mut list)?;
        }
        Changes::Compare { only } => {
            compare::walk(&layer(trees)?, parent(trees)?.as_ref(), only.as_ref(), left_out, &mut list)?;
        }
    }
    Ok(list.sorted())
}

/// Appends the changed members to an archive, which the caller finishes.
pub fn write<W: Write, T: Tap>(
    changes: &Changes,
    trees: &dyn Trees,
    left_out: LeftOut<'_>,
    archive: &mut Writer<W, T>,
) -> Result<()> {
    let parent = parent(trees)?;
    match changes {
        Changes::Upper { dir, whiteouts } => {
            let upper = open(dir)?;
            let mut out = tarball::Tarball::new(archive, &upper);
            out.root(parent.as_ref())?;
            upper::walk(&upper, &upper::Below::Unknown, *whiteouts, left_out, &mut out)
        }
        Changes::Compare { only } => {
            let layer = layer(trees)?;
            let mut out = tarball::Tarball::new(archive, &layer);
            out.root(parent.as_ref())?;
            compare::walk(&layer, parent.as_ref(), only.as_ref(), left_out, &mut out)
        }
    }
}

/// Appends a whole tree to an archive, which the caller finishes.
pub fn write_tree<W: Write, T: Tap>(
    tree: &Path,
    left_out: LeftOut<'_>,
    archive: &mut Writer<W, T>,
) -> Result<()> {
    let tree = open(tree)?;
    let mut out = tarball::Tarball::new(archive, &tree);
    out.root(None)?;
    compare::walk(&tree, None, None, left_out, &mut out)
}

fn layer(trees: &dyn Trees) -> Result<OwnedFd> {
    open(trees.layer().map_err(mounting)?)
}

fn parent(trees: &dyn Trees) -> Result<Option<OwnedFd>> {
    trees.parent().map_err(mounting)?.map(open).transpose()
}

fn mounting(error: mica_core::Error) -> Error {
    Error::Io { doing: "mount a layer for comparing".to_owned(), source: std::io::Error::other(error) }
}

fn open(dir: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty()).map_err(std::io::Error::from);
    opened.map_err(Error::io(format!("open '{}'", dir.display())))
}
