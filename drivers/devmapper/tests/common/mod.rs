//! A root with the driver in it, for the tests of this crate.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod devices;
pub(crate) mod observed;

use std::path::Path;

use mica_core::{
    Begun, Committed, Hold, Layer, LayerId, LayerOptions, MountOptions, OptionMap, Store, Writable,
};
use mica_mount::{Held, Mounter};
use tempfile::TempDir;

/// A new root. Dropping it removes every layer, and with the last one the pool.
pub(crate) struct Place {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl Place {
    /// With these options, a `base_size` that suits the file system, and no `min_free` unless it is among them.
    pub(crate) fn new(options: &[(&str, &str)]) -> Self {
        Self::within(&std::env::temp_dir(), options)
    }

    /// Below an existing directory.
    pub(crate) fn within(parent: &Path, options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir_in(parent).unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let store = open(dir.path(), options);
        Self { store, dir }
    }

    pub(crate) fn create(&self, name: &str, parent: Option<&Layer<Committed>>) -> Layer<Writable> {
        self.create_with(name, parent, &LayerOptions::default())
    }

    pub(crate) fn create_with(
        &self,
        name: &str,
        parent: Option<&Layer<Committed>>,
        options: &LayerOptions,
    ) -> Layer<Writable> {
        match self.store.create(id(name), parent, options).unwrap() {
            Begun::Fresh(layer) => layer,
            Begun::Ready(_) => panic!("'{name}' has content that nobody made"),
        }
    }

    /// A committed layer that was changed so.
    pub(crate) fn layer(
        &self,
        name: &str,
        parent: Option<&Layer<Committed>>,
        change: impl FnOnce(&Path),
    ) -> Layer<Committed> {
        let layer = self.create(name, parent);
        self.edit(&layer, change);
        self.store.commit(layer).unwrap()
    }

    pub(crate) fn edit<T>(&self, layer: &Layer<Writable>, change: impl FnOnce(&Path) -> T) -> T {
        let held = self.write(layer);
        let done = change(held.tree().path());
        held.close().unwrap();
        done
    }

    pub(crate) fn write(&self, layer: &Layer<Writable>) -> Held {
        self.mount(self.store.write(layer, &MountOptions::default()).unwrap())
    }

    pub(crate) fn mount(&self, hold: Hold) -> Held {
        Held::open(hold, &self.mounter()).unwrap()
    }

    pub(crate) fn mounter(&self) -> Mounter {
        Mounter::new(self.dir.path())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for id in self.store.driver().list().unwrap_or_default() {
            // What fails here is a leak, which the suite looks for.
            let _ = self.store.remove(&id);
        }
    }
}

/// Opens the driver below an existing directory, as a process that starts does.
pub(crate) fn open(dir: &Path, options: &[(&str, &str)]) -> Store {
    try_open(dir, options).unwrap()
}

pub(crate) fn try_open(dir: &Path, options: &[(&str, &str)]) -> mica_core::Result<Store> {
    let xfs = options.contains(&("filesystem", "xfs"));
    let mut all: OptionMap =
        [("base_size", if xfs { "512M" } else { "64M" }), ("min_free", "0")].map(owned).into();
    all.extend(options.iter().copied().map(owned));
    let driver = (mica_devmapper::DRIVER.open)(&dir.join("root"), &all)?;
    Store::new(driver, &dir.join("uses"))
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

pub(crate) fn id(name: &str) -> LayerId {
    name.parse().unwrap()
}
