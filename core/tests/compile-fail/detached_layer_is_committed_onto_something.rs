use mica_core::{Detached, Layer, Store};

fn misuse(store: &Store, layer: Layer<Detached>) {
    let _ = store.commit(layer);
}

fn main() {}
