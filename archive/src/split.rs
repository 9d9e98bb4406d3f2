//! Reproducing a layer's tarball byte for byte, without keeping it.
//!
//! While a layer is applied (or written by a commit) a *split* is recorded: the *skeleton* of the archive, which is
//! all of it but the contents of files, and the few contents that the tree cannot give back. [`assemble`] reads the
//! skeleton like an archive and fetches each content from the tree, at the path that the headers name.
//!
//! A content is kept in the split where the tree has not got it:
//! * of a member that is no file in the tree, such as a whiteout, it stands in the skeleton;
//! * of a file that a later member of the same layer replaced or removed, it is saved at that moment
//!   ([`Keeper::displaced`]).
//!
//! The tree is trusted for nothing: the digest of what was assembled tells whether it was the layer's.
//!
//! On disk a split is `MicaSpl1`, then records: a letter, the payload's length as 32 bits little-endian, and the
//! payload. Numbers in payloads are 64 bits little-endian.
//!
//! | record | payload |
//! |--|--|
//! | `S` | the next piece of the skeleton, one zstd stream over all of them. Before the place of each content that is not empty it has a byte: `t` when the content is in the tree, `i` when it follows right there |
//! | `P` | number of a member, and its path in the tree, which links on the way made another than the cleaned one in the header |
//! | `D` | number of the member that displaced a file, and the file's path in the tree. Its content follows as `C` |
//! | `C` | offset in the file, and up to 128 KiB of its data as a zstd frame. What no `C` covers is zero |
//! | `E` | nothing: the end |
//!
//! Members are numbered from 1.

mod assemble;
mod kept;
mod record;
mod recorder;
mod tree;

pub use assemble::assemble;
pub use recorder::{Keeper, Recorder, record};
