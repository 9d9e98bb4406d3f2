//! Changes as a list.

use super::file::At;
use super::{Change, ChangeKind};
use crate::Result;

/// What takes the changes that a walk finds. A directory is announced when it is entered, and emitted when it or
/// something below it changed.
pub(super) trait Out {
    /// A directory that may have to be emitted.
    type Dir;
    /// Prepares a directory.
    fn dir(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<Self::Dir>;
    /// Takes a directory that changed, before everything below it.
    fn emit_dir(&mut self, dir: Self::Dir) -> Result<()>;
    /// Takes anything else that changed.
    fn file(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<()>;
    /// Whether a file has to be taken again under this unchanged name, since it was under another.
    fn wants_link(&self, at: &At<'_>) -> bool;
    /// Takes notice of a file with several names that did not change under this one.
    fn unchanged_link(&mut self, at: &At<'_>) -> Result<()>;
    /// Takes a deletion.
    fn deleted(&mut self, path: &[u8]) -> Result<()>;
    /// A directory hides what the parent has below it. Its path; it was emitted.
    fn opaque(&mut self, path: &[u8]) -> Result<()>;
}

/// The directories on the way down that were not emitted yet.
#[derive(Debug)]
pub(super) struct Pending<D>(Vec<Option<D>>);

impl<D> Default for Pending<D> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<D> Pending<D> {
    pub(super) fn enter(&mut self, dir: D) {
        self.0.push(Some(dir));
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    /// Something changed here: emits the directories that lead to it.
    pub(super) fn emit(&mut self, out: &mut impl Out<Dir = D>) -> Result<()> {
        for dir in &mut self.0 {
            if let Some(dir) = dir.take() {
                out.emit_dir(dir)?;
            }
        }
        Ok(())
    }
}

/// The list of changes.
#[derive(Debug, Default)]
pub(super) struct List(Vec<Change>);

impl List {
    pub(super) fn sorted(mut self) -> Vec<Change> {
        self.0.sort();
        self.0
    }
}

impl Out for List {
    type Dir = Change;

    fn dir(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<Change> {
        Ok(Change { path: at.path.to_vec(), kind })
    }

    fn emit_dir(&mut self, dir: Change) -> Result<()> {
        self.0.push(dir);
        Ok(())
    }

    fn file(&mut self, at: &At<'_>, kind: ChangeKind) -> Result<()> {
        self.0.push(Change { path: at.path.to_vec(), kind });
        Ok(())
    }

    fn wants_link(&self, _: &At<'_>) -> bool {
        false
    }

    fn unchanged_link(&mut self, _: &At<'_>) -> Result<()> {
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.0.push(Change { path: path.to_vec(), kind: ChangeKind::Deleted });
        Ok(())
    }

    fn opaque(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}
