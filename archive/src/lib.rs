//! Layer tarballs: apply, diff, digest, and reproduce byte for byte.
//!
//! * In: [`ingest`] decompresses ([`compress`]), hashes ([`digest`]) and reads ([`reader`]) a tarball in a pipeline;
//!   [`apply`] extracts its members, and [`layer`] joins the two.
//! * Out: [`diff`] finds what a layer changed and feeds a [`writer`].
//! * Both ways: a [`split`] is recorded through a [`tap`], and makes the very same tarball again from the layer's tree.
//!
//! Names are bytes, nothing in an archive is trusted, and memory does not grow with its size.

mod acl;
pub mod apply;
pub mod compress;
pub mod diff;
pub mod digest;
mod encoded;
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
