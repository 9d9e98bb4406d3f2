use mica_core::{Committed, Layer, LayerId, Store};

fn misuse(store: &Store, layer: &Layer<Committed>, to: LayerId) {
    let _ = store.duplicate(layer, to);
}

fn main() {}
