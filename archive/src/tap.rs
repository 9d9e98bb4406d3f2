//! Listening to an archive while it is read or written.

use crate::{Entry, Result};

/// Sees every byte of an archive once, in order, told apart by what it is.
///
/// A [`Reader`](crate::reader::Reader) and a [`Writer`](crate::writer::Writer) call it alike. An error ends
/// the reading or writing. `()` listens to nothing and costs nothing.
pub trait Tap {
    /// Bytes that are no content: headers, extended records, padding, end blocks, trailing garbage.
    fn raw(&mut self, bytes: &[u8]) -> Result<()>;

    /// The headers of `entry` have passed, `stored` bytes of its content come next: for a sparse file
    /// fewer than its size.
    fn member(&mut self, entry: &Entry, stored: u64) -> Result<()>;

    /// The next bytes of the current member's content.
    fn content(&mut self, bytes: &[u8]) -> Result<()>;
}

impl Tap for () {
    fn raw(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn member(&mut self, _: &Entry, _: u64) -> Result<()> {
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}
