use mica_core::{Committed, Layer, MountOptions, Store};

fn misuse(store: &Store, layer: &Layer<Committed>) {
    let _ = store.apply(layer, &MountOptions::default());
}

fn main() {}
