//! Files that the kernel reads and writes by itself, without asking.
//!
//! All simultaneous opens of a file have to agree: either each names the same [`Backing`], or none does and they share the
//! kernel's cache. An open that differs fails with EIO, so [`Content`](super::content::Content) decides for all.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Union;
use super::node::{Name, ROOT};
use crate::session::Backing;

impl Union {
    /// Has the kernel hold this file, to read and write it directly. `None` where it cannot: the requests come to us then.
    pub(crate) fn backing(&self, file: BorrowedFd<'_>) -> Option<Backing> {
        let connection = self.connection.get().filter(|connection| connection.passes_through())?;
        // What fails is about this file, such as ELOOP where its file system lies on another.
        connection.back(file).ok()
    }

    /// Has the kernel ask for the attributes of a file again. It does not see what is written, by a mapping, to a file that it
    /// passes through.
    pub(crate) fn forget_attributes(&self, number: u64) {
        if let Some(connection) = self.connection.get() {
            // Fails only where the connection ends, and with it everything that the kernel knows.
            let _ended = connection.forget_attributes(number);
        }
    }

    /// Has the kernel look a name up again.
    pub(crate) fn forget_name(&self, at: &Name) {
        let parent = if Arc::ptr_eq(&at.parent, &self.root) { ROOT } else { at.parent.number };
        if let Some(connection) = self.connection.get() {
            let _ended = connection.forget_name(parent, &at.name);
        }
    }
}
