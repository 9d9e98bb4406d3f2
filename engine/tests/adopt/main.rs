//! Taking over the data root of an old Docker: fixtures in the form of Docker's on aufs and overlay2, and one that Debian's
//! real dockerd writes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../images/archives.rs"]
#[allow(dead_code, reason = "shared with the tests of images")]
mod archives;
mod changed;
mod containers;
mod crash;
mod docker;
mod dockerd;
#[path = "../images/home.rs"]
#[allow(dead_code, reason = "shared with the tests of images")]
mod home;
mod images;
mod refused;
#[path = "../common/run.rs"]
mod run;
mod untar;
