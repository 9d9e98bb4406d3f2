//! Copies, walks and removes directory trees.
//!
//! Everything goes through directory descriptors, one name at a time, and no symbolic link is ever followed: a tree
//! may hold whatever an image holds, while somebody else changes it. A tree that changes during the call is copied
//! in some state between the two.

mod attributes;
mod copy;
mod data;
mod error;
mod remove;
mod walk;

pub use attributes::copy_attributes;
pub use copy::copy;
pub use error::{Error, Result};
pub use remove::{remove, remove_children};
pub use walk::{Usage, Visit, usage, walk};
