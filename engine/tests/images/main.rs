//! Images through the real command: what they promise, what bad input meets, what a crash leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod archives;
mod bad_input;
mod check;
mod crash;
mod disk;
mod drivers;
mod full_disk;
mod home;
mod interop;
mod life;
mod load;
#[path = "../common/run.rs"]
mod run;
