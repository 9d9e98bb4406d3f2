//! AUFS in user space: a union of branches that a process serves by FUSE.

pub mod session;
mod sys;
pub mod union;
