//! An OCI bundle becomes a process.
//!
//! A **supervisor**, one small process for each container, calls this crate:
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! # fn main() -> Result<(), mica_runtime::Error> {
//! # let (dir, null) = (std::path::Path::new("/"), std::fs::File::open("/dev/null").unwrap());
//! # let spec = mica_runtime::default_spec(dir, &[]);
//! use mica_runtime::{Bundle, Container, Io, reap};
//! let bundle = Bundle { id: "web", dir, spec: &spec, seccomp_cache: None };
//! let io = Io { stdin: null.as_fd(), stdout: null.as_fd(), stderr: null.as_fd() };
//! let mut container = Container::create(&bundle, &io)?;   // its first process waits
//! let network = container.network_namespace()?;           // … so that a network can be attached
//! container.start()?;                                     // … and is now the command
//! while let Some(child) = reap(true)? {
//!     if child.pid == container.init().pid { break }      // child.exit: its status or signal
//! }
//! container.delete()?;
//! # drop(network); Ok(()) }
//! ```
//!
//! * The supervisor has **one thread**: the child of a clone runs ordinary code until it executes the
//!   command.
//! * It **reaps every child**, with [`reap`]: the first process of a container cannot end while a process
//!   that [`Container::exec`] made is an unreaped zombie in its pid namespace.
//! * It has a private mount namespace, in which the root file system is mounted; what the container mounts
//!   lives in a namespace of its own and goes with its last process.
//! * It runs from a file that cannot be written through `/proc/PID/exe`: [`protected_self`] (CVE-2019-5736).
//! * Its death kills the container's first process, and with a pid namespace all; [`remove_cgroup`] ends what
//!   is left then, and removes the groups.
//!
//! Needs Linux 5.12 (`mount_setattr`), control groups v1, v2 or both, and root. User and time namespaces,
//! hooks and security labels are refused by name, never ignored.

mod capabilities;
mod cgroup;
mod channel;
mod child;
mod command;
mod container;
pub mod defaults;
mod error;
mod launch;
mod plan;
mod process;
mod protect;
mod rootfs;
mod running;
pub mod seccomp;
mod sys;
mod terminal;

pub use container::{Bundle, Container, remove_cgroup};
pub use defaults::default_spec;
pub use error::{Error, Result};
pub use protect::protected_self;
pub use rootfs::resolve::{Missing, open_or_make, open_path};
pub use running::{Exit, Io, Reaped, Running, reap};
