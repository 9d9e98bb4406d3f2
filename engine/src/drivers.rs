//! The drivers in this tree. The one place that names them.

use mica_core::Registry;

/// Every driver of this tree, of each kind the most preferred first.
pub fn registry() -> Registry {
    networks()
        .storage(mica_overlay2::DRIVER)
        .storage(mica_aufs_compat::DRIVER)
        .storage(mica_vfs::DRIVER)
        .storage(mica_devmapper::DRIVER)
}

/// Those of networks alone, for a program that has nothing to do with storage.
pub fn networks() -> Registry {
    Registry::new().network(mica_net::BRIDGE).network(mica_net::NONE).network(mica_net::MACVLAN)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_drivers_say_of_themselves_fits_a_column() {
        let registry = super::registry();
        let storage = registry.storage_drivers().iter().map(|entry| (entry.name, entry.about));
        let network = registry.network_drivers().iter().map(|entry| (entry.name, entry.about));
        for (name, about) in storage.chain(network) {
            assert!(about.len() <= 60, "{name}: {about}");
        }
    }

    #[test]
    fn a_name_is_one_drivers_of_either_kind() {
        let registry = super::registry();
        for entry in registry.network_drivers() {
            assert!(registry.storage_driver(entry.name).is_err(), "{}", entry.name);
        }
    }
}
