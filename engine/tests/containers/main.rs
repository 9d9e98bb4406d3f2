//! Containers through the real command, on every storage driver of this host: what they promise, and what is left of
//! them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bed;
mod command_line;
mod concurrency;
mod copy;
mod crash;
mod damage;
mod devmapper;
mod exec;
mod hostile;
mod init_layer;
mod life;
mod limits;
mod logs;
mod names;
mod network_crash;
mod network_live;
mod networks;
mod outside;
mod ports;
mod power_cut;
#[path = "../common/run.rs"]
mod run;
mod runtimes;
mod served;
mod sys;
mod terminal;
mod transcript;
mod volume_verbs;
mod volumes;
