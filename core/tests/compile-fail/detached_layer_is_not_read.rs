use mica_core::{Detached, Layer, MountOptions, Store};

fn misuse(store: &Store, layer: &Layer<Detached>) {
    let _ = store.read(layer, &MountOptions::default());
}

fn main() {}
