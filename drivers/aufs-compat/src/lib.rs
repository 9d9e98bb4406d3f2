//! AUFS in user space: branches laid over each other by a process that the kernel asks through FUSE.
//!
//! ```text
//! diff/ID      a branch: what the layer changed, in AUFS's own form
//! layers/ID    what the layer stands on, one a line, the nearest first; its mode says whether the layer is committed
//! mnt/         where Docker mounted; empty
//! ```
//!
//! So Docker kept it, and so an AUFS of the kernel can take it back. A layer is mounted as the [`union`] of its branch and of
//! those of its parents, which a [`session`] serves.

pub mod branches;
pub mod command;
mod driver;
pub mod helper;
pub mod mount_options;
pub mod session;
mod sys;
pub mod union;

use std::path::Path;

use mica_core::{DriverEntry, GraphDriver, OptionMap, Result, options};

use driver::AufsCompat;

const NAME: &str = "aufs-compat";

/// The entry for the registry.
pub const DRIVER: DriverEntry = DriverEntry {
    name: NAME,
    about: "AUFS by FUSE; for hosts that refuse overlayfs",
    options: Options::DOCS,
    open,
    helper: Some(helper::main),
};

mica_core::driver_options! {
    /// What `--storage-opt aufs-compat.NAME=VALUE` sets.
    pub(crate) struct Options {
        /// Have the kernel read and write files by itself where it can (Linux 6.9).
        /// Where it is not given, that is done on hosts that have it.
        passthrough: Option<bool> = None,
        /// Let a file of the image that was opened before its first write keep showing what the image has, as overlayfs
        /// does. In return the kernel reads such files by itself, too.
        stale_reads: bool = false,
        /// Skip all syncing of a container that is thrown away after a crash.
        volatile: bool = true,
        /// How many threads serve a mount; 0 is one for each processor.
        threads: u8 = 0,
    }
}

fn open(root: &Path, given: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    let options: Options = options::parse(NAME, given, Options::DOCS)?;
    Ok(Box::new(AufsCompat::open(root, options)?))
}
