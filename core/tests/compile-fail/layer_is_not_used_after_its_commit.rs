use mica_core::{Layer, MountOptions, Store, Writable};

fn misuse(store: &Store, layer: Layer<Writable>) {
    let _ = store.commit(layer);
    let _ = store.write(&layer, &MountOptions::default());
}

fn main() {}
