//! The drivers in this tree. The one place that names them.

use mica_core::Registry;

/// Every driver of this tree, the most preferred first.
pub fn registry() -> Registry {
    Registry::new()
        .storage(mica_overlay2::DRIVER)
        .storage(mica_aufs_compat::DRIVER)
        .storage(mica_vfs::DRIVER)
        .storage(mica_devmapper::DRIVER)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_drivers_say_of_themselves_fits_a_column() {
        for entry in super::registry().storage_drivers() {
            assert!(entry.about.len() <= 60, "{}: {}", entry.name, entry.about);
        }
    }
}
