//! The contracts of Mica: what a storage driver and a network driver promise, in prose and types.
//!
//! A driver author reads [`graphdriver`] (or [`network`]) and needs nothing else. Who uses a storage driver holds a
//! [`Store`], whose types do not let a writable layer be a parent nor a committed one be written. This crate makes no
//! system call beyond what `std` does, and holds no `unsafe` code.

pub mod durable;
pub mod error;
pub mod failpoint;
pub mod graphdriver;
pub mod layer;
pub mod mount;
pub mod network;
pub mod options;
pub mod registry;
pub mod store;
mod uses;

pub use error::{Error, Result};
pub use graphdriver::{
    Access, Capabilities, Changes, Created, GraphDriver, LayerOptions, MountOptions, MountRequest, Mounts,
    Quota, Support, Trees, Usage, WhiteoutForm,
};
pub use layer::{Chain, LayerId};
pub use mount::MountSpec;
pub use network::NetworkDriver;
pub use options::{ByteSize, OptionDoc, OptionMap};
pub use registry::{DriverEntry, NetworkEntry, Registry};
pub use store::{Begun, Committed, Detached, Hold, Layer, Store, Writable};
