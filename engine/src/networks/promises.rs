//! The fixed addresses that containers are to have, running or not.
//!
//! What is promised stands in each container's `networks.json`. So that a lease need not read those of all containers, one that
//! has a fixed address in a network leaves an empty file, `promised/NETWORK/CONTAINER`. The file says only that it is worth
//! looking: it comes before what it points at, under the lock of the root, and goes when somebody finds under that lock that it
//! points at nothing any more. Without the directory all containers are looked at once, and it is made.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use mica_core::durable;
use mica_core::network::NetworkId;

use super::Networks;
use super::record::names;
use crate::container::{Connection, connections, remove_file};
use crate::lock::Lock;
use crate::root::make_directory;
use crate::{Error, Result, Root, root};

impl Networks {
    /// The fixed addresses in a network that containers of this data root are to have, running or not.
    pub(crate) fn promised(&self, network: &NetworkId) -> Result<BTreeSet<IpAddr>> {
        promised(&self.root, network)
    }
}

fn promised(root: &Root, network: &NetworkId) -> Result<BTreeSet<IpAddr>> {
    if !root.promised().exists() {
        survey(root, &root.lock()?)?;
    }
    let dir = root.promised().join(network.to_string());
    let mut promised = BTreeSet::new();
    let mut void = Vec::new();
    for container in names(&dir)? {
        match fixed(root, &container, network) {
            Ok(addresses) if addresses.is_empty() => void.push(container),
            // What cannot be read is promised to nobody, until it is mended.
            addresses => promised.extend(addresses.unwrap_or_default()),
        }
    }
    if !void.is_empty() {
        let _lock = root.lock()?;
        for container in void {
            if fixed(root, &container, network).is_ok_and(|addresses| addresses.is_empty()) {
                remove_file(&dir.join(container))?;
            }
        }
    }
    Ok(promised)
}

/// Has leases heed what these connections promise to a container, which are written next, under the same lock of the root. It
/// survives a power cut.
pub(crate) fn announce(root: &Root, lock: &Lock, container: &str, connections: &[Connection]) -> Result<()> {
    if !promises(connections) {
        return Ok(());
    }
    if !root.promised().exists() {
        survey(root, lock)?;
    }
    note(&root.promised(), container, connections)
        .map_err(Error::io(|| format!("write to '{}'", root.promised().display())))
}

/// Whether anything is promised by these.
pub(crate) fn promises(connections: &[Connection]) -> bool {
    connections.iter().any(|connection| !connection.wish.addresses.is_empty())
}

fn note(dir: &Path, container: &str, connections: &[Connection]) -> io::Result<()> {
    for connection in connections.iter().filter(|connection| !connection.wish.addresses.is_empty()) {
        let network = dir.join(connection.network.to_string());
        make_directory(&network)?;
        File::create(network.join(container))?;
        durable::sync_dir(&network)?;
    }
    durable::sync_dir(dir)
}

/// Looks at all containers.
fn survey(root: &Root, _lock: &Lock) -> Result<()> {
    let dir = root.promised();
    let aside = dir.with_extension("new");
    let failed = || format!("create '{}'", dir.display());
    root::remove_tree(&aside)?;
    make_directory(&aside).map_err(Error::io(failed))?;
    for container in root::names(&root.containers())? {
        let connections = connections::read(&root.containers().join(&container)).unwrap_or_default();
        if promises(&connections) {
            note(&aside, &container, &connections).map_err(Error::io(failed))?;
        }
    }
    // Somebody may have been faster.
    match fs::rename(&aside, &dir) {
        Err(_) if dir.exists() => root::remove_tree(&aside),
        renamed => renamed.and_then(|()| durable::sync_parent(&dir)).map_err(Error::io(failed)),
    }
}

/// What a container is to have in a network: nothing, if it is not there.
fn fixed(root: &Root, container: &str, network: &NetworkId) -> Result<Vec<IpAddr>> {
    let connections = connections::read(&root.containers().join(container))?.into_iter();
    let here = connections.filter(|connection| connection.network == *network);
    Ok(here.flat_map(|connection| connection.wish.addresses).collect())
}

#[cfg(test)]
mod tests;
