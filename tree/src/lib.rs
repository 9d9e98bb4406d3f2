//! Copies, walks and removes directory trees.
//!
//! Everything goes through directory descriptors, one name at a time, and no symbolic link is ever followed: a tree
//! may hold whatever an image holds, while somebody else changes it. A tree that changes during the call is copied
//! in some state between the two.

mod attributes;
mod copy;
mod data;
mod error;
mod filesystem;
mod project;
mod remove;
mod shelf;
mod sys;
mod walk;

pub use attributes::{copy_attributes, copy_path_attributes};
pub use copy::{Pair, copy, copy_paired, copy_without};
pub use data::Abilities;
pub use error::{Error, Result};
pub use filesystem::file_system;
pub use project::{ProjectUsage, assign_project, limit_project, limits_projects, project, project_usage};
pub use remove::{remove, remove_children};
pub use shelf::{Shelf, Staged};
pub use walk::{Usage, Visit, usage, walk};
