//! What a container knows by name: its `/etc/hosts`, `hostname` and `resolv.conf`, and a DNS responder for the names
//! of the containers around it.
//!
//! [`hosts_file`], [`hostname_file`] and [`Resolv`] make texts out of values and touch nothing. A [`Responder`]
//! answers at `127.0.0.11` inside a container's network namespace: names that its [`View`] has from there, all others by
//! way of the host's own resolvers, which it asks from the host's namespace. So a resolver that only the host's
//! loopback has (systemd-resolved, dnsmasq) works for containers, and never stands in a container's `resolv.conf`.
//!
//! A view without servers forwards nothing. It is the one to show a container all of whose networks are internal: a
//! query that is passed on carries data out of a network that has no other way out (CVE-2024-29018).
//!
//! The responder starts no thread that stays. Its owner waits for its one descriptor beside others and calls
//! [`Responder::turn`] when that is readable:
//!
//! ```no_run
//! # fn show(namespace: std::os::fd::BorrowedFd<'_>) -> mica_core::Result<()> {
//! use mica_names::{HostName, Names, Responder, View};
//!
//! let mut names = Names::default();
//! let db: HostName = "db".parse()?;
//! names.insert(&db, &["172.30.0.2".parse().unwrap()]);
//! let mut responder = Responder::start(namespace, View { names, servers: Vec::new() })?;
//! loop {
//!     responder.wait()?;
//!     responder.turn()?;
//! }
//! # }
//! ```

mod answer;
mod etc;
mod exchange;
mod host_name;
mod inside;
mod names;
mod redirect;
mod resolv;
mod responder;
mod stream;

pub use etc::{ExtraHost, HostTarget, OwnNames, host_lines, hostname_file, hosts_file};
pub use host_name::HostName;
pub use names::{Names, View};
pub use resolv::{Resolv, Server, Wishes};
pub use responder::{ADDRESS, Responder};
