//! Layers as thin volumes of a device-mapper pool: a child is a snapshot of its parent, and shares its blocks.
//!
//! ```text
//! pool            what the pool is made on, and with what
//! data metadata   the pool's files, where it is on files
//! layers/ID       which volume a layer is; pending/ and removing/ hold those that are made and deleted
//! ```
//!
//! A volume holds a file system of its own, whose root is the layer's tree. It has a device only while it is mounted.
//!
//! The feature `devicemapper` needs libclang and the headers of libdevmapper to be built. Without it the driver is
//! there, and says that it cannot be used.

#[cfg(feature = "devicemapper")]
mod driver;
#[cfg_attr(
    not(feature = "devicemapper"),
    allow(dead_code, reason = "only the documentation of options is needed")
)]
mod options;

use mica_core::DriverEntry;
#[cfg(not(feature = "devicemapper"))]
use mica_core::{Error, GraphDriver, OptionMap, Result};

const NAME: &str = "devmapper";

/// The entry for the registry.
pub const DRIVER: DriverEntry = DriverEntry {
    name: NAME,
    about: "thin volumes copy blocks, not files; on files a try-out",
    options: options::Options::DOCS,
    #[cfg(feature = "devicemapper")]
    open: driver::open,
    #[cfg(not(feature = "devicemapper"))]
    open: absent,
    helper: None,
};

#[cfg(not(feature = "devicemapper"))]
fn absent(_: &std::path::Path, _: &OptionMap) -> Result<Box<dyn GraphDriver>> {
    Err(Error::Unavailable {
        reason:
            "this program was built without device mapper: building that needs the packages libclang-dev, \
                 libdevmapper-dev and pkg-config, and cargo's default features"
                .to_owned(),
    })
}
