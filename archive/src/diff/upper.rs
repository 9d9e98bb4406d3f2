//! Changes from the directory that holds a layer's own files.
//!
//! Nothing else is read for a tarball, so the cost is that of the change, not of the image. For a list the parent is
//! looked up beside it, to tell what is new from what is changed, and what an opaque directory hides.

use std::os::fd::{AsFd, OwnedFd};

use mica_core::WhiteoutForm;
use rustix::fs::{FileType, Stat};

use super::file::{At, join, look, names, same};
use super::list::{Out, Pending};
use super::{ChangeKind, LeftOut};
use crate::{Error, Result};

/// The parent's directory at the place of the walk.
#[derive(Debug)]
pub(super) enum Below {
    /// Nobody asked.
    Unknown,
    /// The parent has no directory here.
    Nothing,
    /// This one.
    Dir(OwnedFd),
}

/// What the walk is beside. Overlayfs marks only the uppermost of the directories that hide the parent's.
struct Merge<'a> {
    below: &'a Below,
    /// A directory above hides all of `below`.
    cut: bool,
}

impl Below {
    pub(super) fn tree(root: Option<OwnedFd>) -> Self {
        root.map_or(Self::Nothing, Self::Dir)
    }
}

pub(super) fn walk<O: Out>(
    upper: &OwnedFd,
    below: &Below,
    whiteouts: WhiteoutForm,
    left_out: LeftOut<'_>,
    out: &mut O,
) -> Result<()> {
    let mut walk = Walk { whiteouts, left_out, out, pending: Pending::default() };
    walk.children(upper, &Merge { below, cut: false }, b"")
}

struct Walk<'a, O: Out> {
    whiteouts: WhiteoutForm,
    left_out: LeftOut<'a>,
    out: &'a mut O,
    pending: Pending<O::Dir>,
}

impl<O: Out> Walk<'_, O> {
    fn children(&mut self, upper: &OwnedFd, merge: &Merge<'_>, path: &[u8]) -> Result<()> {
        for named in names(upper, path)? {
            let path = join(path, &named.name);
            if let Some(stat) = look(upper, &named.name, &path)? {
                self.child(&At { dir: upper.as_fd(), name: &named.name, path: &path, stat: &stat }, merge)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, at: &At<'_>, merge: &Merge<'_>) -> Result<()> {
        if self.whiteouts == WhiteoutForm::Aufs && at.name.starts_with(b".wh.") {
            return self.aufs(at);
        }
        if (self.left_out)(at.path) {
            return Ok(());
        }
        if self.is_whiteout(at) {
            return self.deleted(at.path);
        }
        let there = lookup(merge.below, at.name, at.path)?;
        let before = match (&there, merge.below) {
            (Some(stat), Below::Dir(dir)) => Some(At { dir: dir.as_fd(), stat, ..*at }),
            _ => None,
        };
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        if at.is_dir() {
            return self.directory(at, before.as_ref(), kind, merge);
        }
        if let Some(before) = &before
            && before.file_type() == at.file_type()
            && same(at, before)?
        {
            return Ok(());
        }
        self.pending.emit(self.out)?;
        self.out.file(at, kind)
    }

    fn directory(
        &mut self,
        at: &At<'_>,
        before: Option<&At<'_>>,
        kind: ChangeKind,
        merge: &Merge<'_>,
    ) -> Result<()> {
        let upper = at.open_dir()?;
        let before = before.filter(|before| before.is_dir());
        let changed = before.map_or(Ok(true), |before| same(at, before).map(|same| !same))?;
        let prepared = self.out.dir(at, kind)?;
        self.pending.enter(prepared);
        if changed {
            self.pending.emit(self.out)?;
        }
        let below = match (before, merge.below) {
            (_, Below::Unknown) => Below::Unknown,
            (Some(before), _) => Below::Dir(before.open_dir()?),
            (None, _) => Below::Nothing,
        };
        let opaque = self.is_opaque(at, &upper)?;
        match &below {
            Below::Dir(below) if opaque || merge.cut => self.hidden(&upper, below, at.path)?,
            Below::Unknown if opaque => {
                self.pending.emit(self.out)?;
                self.out.opaque(at.path)?;
            }
            _ => {}
        }
        self.children(&upper, &Merge { below: &below, cut: opaque || merge.cut }, at.path)?;
        self.pending.leave();
        Ok(())
    }

    /// Tells what a directory that hides the parent's does not have itself.
    fn hidden(&mut self, upper: &OwnedFd, below: &OwnedFd, path: &[u8]) -> Result<()> {
        for named in names(below, path)? {
            let path = join(path, &named.name);
            if look(upper, &named.name, &path)?.is_none() && !(self.left_out)(&path) {
                self.deleted(&path)?;
            }
        }
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.pending.emit(self.out)?;
        self.out.deleted(path)
    }

    fn is_whiteout(&self, at: &At<'_>) -> bool {
        let overlay = matches!(self.whiteouts, WhiteoutForm::Overlay { .. });
        overlay && at.file_type() == FileType::CharacterDevice && at.stat.st_rdev == 0
    }

    fn is_opaque(&self, at: &At<'_>, upper: &OwnedFd) -> Result<bool> {
        let prefix = match self.whiteouts {
            WhiteoutForm::Merged => return Ok(false),
            WhiteoutForm::Aufs => return Ok(look(upper, b".wh..wh..opq", at.path)?.is_some()),
            WhiteoutForm::Overlay { user_xattr: true } => "user.overlay",
            WhiteoutForm::Overlay { user_xattr: false } => "trusted.overlay",
        };
        if at.xattr(&format!("{prefix}.redirect"))?.is_some() {
            // Its content is elsewhere in the parent; a list or a tarball made from here would be wrong.
            return Err(Error::Refused {
                path: at.path.escape_ascii().to_string(),
                reason: "overlayfs made it a redirect; the layer was mounted with redirect_dir=on by somebody else"
                    .to_owned(),
            });
        }
        Ok(at.xattr(&format!("{prefix}.opaque"))?.as_deref() == Some(b"y"))
    }

    /// A name that only has a meaning to AUFS: a whiteout, or its own bookkeeping.
    fn aufs(&mut self, at: &At<'_>) -> Result<()> {
        let hidden = &at.name[b".wh.".len()..];
        if hidden.starts_with(b".wh.") || hidden.is_empty() {
            return Ok(());
        }
        let parent = &at.path[..at.path.len() - at.name.len()];
        let path = [parent, hidden].concat();
        if (self.left_out)(&path) { Ok(()) } else { self.deleted(&path) }
    }
}

fn lookup(below: &Below, name: &[u8], path: &[u8]) -> Result<Option<Stat>> {
    match below {
        Below::Dir(dir) => look(dir, name, path),
        Below::Unknown | Below::Nothing => Ok(None),
    }
}
