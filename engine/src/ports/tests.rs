//! Ports that are reserved and handed on, each in a network namespace of its own that plays the host.

mod relayed;
mod reserved;

use std::fs;
use std::io;

use mica_conformance::network::Namespace;
use mica_core::network::{Families, Port, Publish};

use super::Reserved;
use crate::Result;

const BOTH: Families = Families { v4: true, v6: true };

/// Runs a test on a host that has nothing but `lo`.
fn on_a_host(test: impl FnOnce() + Send) {
    let run = || {
        test();
        Ok(())
    };
    Namespace::new().and_then(|host| host.inside(run)).unwrap();
}

fn reserve(wishes: &[&str]) -> Result<Reserved> {
    reserve_beside(wishes, &|_| None)
}

fn reserve_beside(wishes: &[&str], who: &dyn Fn(&Port) -> Option<String>) -> Result<Reserved> {
    Reserved::reserve(&parsed(wishes), BOTH, who)
}

fn parsed(wishes: &[&str]) -> Vec<Publish> {
    wishes.iter().map(|wish| wish.parse().unwrap()).collect()
}

fn texts(ports: &[Port]) -> Vec<String> {
    ports.iter().map(ToString::to_string).collect()
}

fn set(setting: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{setting}"), value)
}
