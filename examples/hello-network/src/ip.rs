//! The program `ip`: what it is told and what it answers, in the network namespace of the calling thread.

use std::fs;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use mica_core::{Error, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What `ip` tells of a link.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Link {
    pub(crate) ifname: String,
    pub(crate) ifalias: String,
    pub(crate) address: String,
    flags: Vec<String>,
    mtu: u32,
    master: Option<String>,
    linkinfo: LinkInfo,
    addr_info: Vec<LinkAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinkInfo {
    info_slave_data: PortInfo,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PortInfo {
    state: String,
}

#[derive(Debug, Deserialize)]
struct LinkAddress {
    local: IpAddr,
    prefixlen: u8,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
}

/// Runs `ip` with these words. No shell reads them, and nothing in them can hold a blank: they are this driver's own, numbers,
/// addresses, marks and [names of interfaces](mica_core::network::InterfaceName), each behind a keyword.
///
/// Fails with `AlreadyExists` where the kernel says so.
pub(crate) fn ip(words: &str) -> Result<Vec<u8>> {
    let doing = || format!("run 'ip {words}'");
    let mut command = Command::new("ip");
    command.args(words.split_whitespace()).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(Error::io(doing))?;
    let told = String::from_utf8_lossy(&output.stderr);
    match told.trim() {
        _ if output.status.success() => Ok(output.stdout),
        told if told.contains("File exists") => {
            Err(Error::AlreadyExists { what: format!("what 'ip {words}' makes") })
        }
        told => Err(Error::driver(doing(), told)),
    }
}

fn ask<T: DeserializeOwned>(what: &str) -> Result<T> {
    let answer = ip(&format!("-json -details {what}"))?;
    serde_json::from_slice(&answer).map_err(|e| Error::driver(format!("read what 'ip {what}' prints"), e))
}

/// Every link, with its addresses.
pub(crate) fn links() -> Result<Vec<Link>> {
    ask("address show")
}

/// Everything that a driver can want of links and routes, each as a line for people.
pub(crate) fn facts() -> Result<Vec<String>> {
    let mut facts = Vec::new();
    for link in links()? {
        let Link { ifname, ifalias, address, flags, mtu, master, linkinfo, addr_info } = link;
        facts.extend([format!("'{ifname}' has MTU {mtu}"), format!("'{ifname}' has MAC {address}")]);
        facts.push(format!("'{ifname}' bears {ifalias}"));
        facts.extend(flags.iter().any(|flag| flag == "UP").then(|| format!("'{ifname}' is up")));
        let state = linkinfo.info_slave_data.state;
        facts.extend(master.map(|bridge| format!("'{ifname}' is a {state} port of '{bridge}'")));
        let addresses =
            addr_info.iter().map(|LinkAddress { local, prefixlen }| format!("{local}/{prefixlen}"));
        facts.extend(addresses.map(|address| format!("'{ifname}' has {address}")));
    }
    for Route { dst, gateway, dev } in ask::<Vec<Route>>("-4 route show")? {
        if let (Some(gateway), Some(dev)) = (gateway, dev) {
            facts.push(format!("'{dev}' leads to {dst} by {gateway}"));
        }
    }
    Ok(facts)
}

/// Sets what is named as a path below `/proc/sys/net`. A kernel without IPv6 has no settings of it, and needs none.
pub(crate) fn set(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    if name.starts_with("ipv6/") && !Path::new(&path).exists() {
        return Ok(());
    }
    fs::write(&path, value).map_err(Error::io(|| format!("write '{path}'")))
}

/// Works in another namespace, on a thread that enters it and ends.
pub(crate) fn inside<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let enter_and_work = || {
        move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::driver("enter the container's network namespace", e))?;
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, enter_and_work);
        let thread = thread.map_err(Error::io(|| "start a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
