//! The Mica container engine: images, layers and containers under one data root, and the `mica` command.
//!
//! An [`Engine`] is a plain value over files; any number of processes use one root at once, with no daemon. What is made is
//! made in a [`Transaction`](transaction::Transaction), which announces before it begins and records by one rename.
//! Layers belong to storage drivers, which the engine knows by their [`Registry`] alone.

pub mod chain;
pub mod drivers;
pub mod engine;
pub mod error;
pub mod image;
pub mod images;
pub mod intent;
pub mod layers;
mod lock;
pub mod reference;
pub mod root;
mod settle;
pub mod tags;
pub mod transaction;
pub mod uses;

pub use chain::ChainId;
pub use engine::{Config, Engine};
pub use error::{Error, Result};
pub use image::Image;
pub use intent::Barrier;
pub use mica_core::Registry;
pub use reference::Reference;
pub use root::Root;
pub use transaction::{NewLayer, Transaction};
