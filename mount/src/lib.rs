//! Turns a mount specification into a mounted tree. The only crate that calls `mount(2)` and its successors.
//!
//! A [`Tree`] is a mount that hangs nowhere: since Linux 5.2 the kernel makes a mount as a descriptor, and puts it
//! into the tree of names only when asked to. So a tree that is held, filled and dropped never appears in a mount
//! table, nothing else sees it, and a process that is killed leaks nothing. Who wants it to have a name attaches it.
//!
//! ```no_run
//! # fn show(hold: &mica_core::Hold, scratch: &std::path::Path) -> mica_core::Result<()> {
//! let mounter = mica_mount::Mounter::new(scratch);
//! let tree = mounter.open(hold.mounts())?;
//! std::fs::write(tree.path().join("file"), "content").unwrap();
//! let attached = tree.attach("/mnt".as_ref())?;
//! attached.close()?;
//! # Ok(()) }
//! ```
//!
//! What the kernel lacks is made up for: [`Calls`] names the four ways there are, probed by trying. All four mount 500
//! lower layers with paths of any length and any characters. Only the oldest one needs `scratch`, to attach a tree
//! where nobody looks; what a process leaves there that is killed, [`sweep`] undoes.

mod attached;
mod bind;
mod calls;
mod classic;
mod context;
mod error;
mod fs;
mod helper;
mod idmap;
mod lazy;
mod mounter;
mod namespace;
mod overlay;
mod remount;
mod scratch;
mod sys;
pub mod table;
mod tree;
mod writes;

pub use attached::{Attached, Loose};
pub use calls::Calls;
pub use helper::fuse_passthrough;
pub use lazy::{Held, LazyTrees};
pub use mounter::Mounter;
pub use namespace::keep_only;
pub use remount::remount;
pub use scratch::{SCRATCH_PREFIX, sweep};
pub use tree::Tree;
