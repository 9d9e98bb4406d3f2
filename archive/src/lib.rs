//! Layer tarballs: apply, diff, digest, and reproduce byte for byte.

pub mod apply;
pub mod compress;
pub mod diff;
pub mod digest;
mod entry;
mod error;
mod header;
pub mod ingest;
pub mod layer;
mod output;
mod pax;
pub mod reader;
mod sparse;
pub mod split;
pub mod tap;
pub mod writer;

pub use digest::Digest;
pub use entry::{Entry, Kind, Segment, Time};
pub use error::{Error, Result};
