//! The name server in real network namespaces: one plays the host, one is the container's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod client;
mod forwarding;
mod scene;
mod sharing;
mod standing;
mod upstream;
