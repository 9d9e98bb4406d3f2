use mica_core::{Layer, Writable};

fn misuse(layer: &Layer<Writable>) -> Layer<Writable> {
    Layer::clone(layer)
}

fn main() {}
