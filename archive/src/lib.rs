//! Layer tarballs: apply, diff, digest, and reproduce byte for byte.

mod entry;

pub use entry::{Entry, Kind, Segment, Time};
