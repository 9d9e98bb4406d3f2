//! The Mica container engine: images, layers and containers under one data root, and the `mica` command.
//!
//! An [`Engine`] is a plain value over files; any number of processes use one root at once, with no daemon. What is made is
//! made in a [`Transaction`], which announces before it begins and records by one rename.
//! Layers belong to storage drivers, which the engine knows by their [`Registry`] alone.

pub mod about;
pub mod adopt;
pub mod chain;
pub mod change;
pub mod check;
mod cli;
mod cni;
pub mod container;
pub mod df;
pub mod drivers;
pub mod engine;
pub mod error;
pub mod image;
pub mod images;
pub mod import;
pub mod inspect;
pub mod intent;
pub mod layers;
pub mod listing;
pub mod load;
mod lock;
pub mod manage;
pub mod networks;
mod pipe;
pub mod ports;
mod reboot;
pub mod reference;
mod reserve;
pub mod root;
pub mod save;
mod settle;
mod supervisor;
mod sys;
pub mod tags;
pub mod transaction;
pub mod uses;
pub mod volumes;

use std::process::ExitCode;

pub use chain::ChainId;
pub use engine::{Config, Engine};
pub use error::{Error, Result};
pub use image::Image;
pub use import::{ImportOptions, Imported, NewImage};
pub use intent::Barrier;
pub use mica_core::Registry;
pub use reference::Reference;
pub use root::Root;
pub use transaction::{NewLayer, Transaction};

/// The `mica` command with these drivers: what a program calls that adds one of its own.
pub fn main(registry: Registry) -> ExitCode {
    cli::main(registry)
}

/// `mica cni` with these network drivers, and no other verb.
pub fn plugin(registry: Registry) -> ExitCode {
    cli::plugin(registry)
}
