//! An OCI bundle becomes a process.

pub mod seccomp;
