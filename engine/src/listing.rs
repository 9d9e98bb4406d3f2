//! Lists that one damaged record does not spoil.

use crate::{Error, Result};

/// What could be read of all things of a kind, and why the rest could not.
#[derive(Debug)]
pub struct Listing<T> {
    /// What could be read.
    pub found: Vec<T>,
    /// An [`Error::Damaged`] for each that could not.
    pub damaged: Vec<Error>,
}

impl<T> Listing<T> {
    pub(crate) fn new() -> Self {
        Self { found: Vec::new(), damaged: Vec::new() }
    }

    /// Adds what was read, or why it could not be. `None` was removed meanwhile. Only damage is one thing's own; anything else
    /// that fails would fail for others too.
    pub(crate) fn add(&mut self, read: Result<Option<T>>) -> Result<()> {
        match read {
            Ok(found) => self.found.extend(found),
            Err(error @ Error::Damaged { .. }) => self.damaged.push(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// All of it, for who must not miss one.
    pub(crate) fn whole(mut self) -> Result<Vec<T>> {
        self.damaged.pop().map_or(Ok(self.found), Err)
    }
}
