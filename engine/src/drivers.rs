//! The drivers in this tree. The one place that names them.

use mica_core::Registry;

/// Every driver of this tree, the most preferred first.
pub fn registry() -> Registry {
    Registry::new().storage(mica_overlay2::DRIVER).storage(mica_vfs::DRIVER).storage(mica_devmapper::DRIVER)
}
