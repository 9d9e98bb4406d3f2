//! Network drivers.
//!
//! Each is a module that exports its entry for a registry. What they share: talking with the kernel (`netlink`), work in a
//! container's namespace (`namespace`, `inside`), and, for those behind the host, what gets through (`firewall`).

mod bridge;
mod endpoint;
mod firewall;
mod host;
mod inside;
pub mod ipam;
mod kept;
mod macvlan;
mod namespace;
mod netlink;
mod none;
#[cfg(test)]
mod played;
mod refuse;
mod setting;
mod sys;

pub use bridge::BRIDGE;
pub use macvlan::MACVLAN;
pub use none::NONE;
