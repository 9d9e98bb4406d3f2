use mica_core::{Layer, LayerId, LayerOptions, Store, Writable};

fn misuse(store: &Store, parent: &Layer<Writable>, id: LayerId) {
    let _ = store.create(id, Some(parent), &LayerOptions::default());
}

fn main() {}
