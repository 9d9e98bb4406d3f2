//! Layer tarballs: apply, diff, digest, and reproduce byte for byte.

mod entry;
mod error;

pub use entry::{Entry, Kind, Segment, Time};
pub use error::{Error, Result};
