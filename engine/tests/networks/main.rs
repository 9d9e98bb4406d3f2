//! Networks through the real command, on a host of their own: a network namespace that nothing else is in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod check;
mod cni;
mod crash;
mod host;
mod life;
mod refused;
#[path = "../common/run.rs"]
mod run;
