//! `DEL` and `GC`: connections are taken away.

use std::os::fd::AsFd;
use std::path::Path;

use super::call::Place;
use super::config::Config;
use super::refusal::Refusal;
use crate::networks::Networks;

/// Takes a connection away. One that is not there, or whose namespace is gone, is no error.
pub(super) fn remove(
    networks: &Networks,
    config: &Config,
    place: &Place,
    path: Option<&Path>,
) -> Result<(), Refusal> {
    let Some(network) = networks.recorded(&config.name)? else { return Ok(()) };
    let _turn = networks.turn_at(&place.key())?;
    let Some(record) = networks.endpoint(&network.network.id, &place.key())? else { return Ok(()) };
    let namespace = record.outside.as_ref().and_then(|outside| {
        // A process that it was named after may have ended, while something else holds it.
        outside.reopen().or_else(|| outside.reopen_at(path?))
    });
    Ok(networks.take_away(&record, namespace.as_ref().map(AsFd::as_fd))?)
}

/// Takes away all connections that the configuration does not name, and what crashes left in the kernel.
pub(super) fn collect(networks: &Networks, config: &Config) -> Result<(), Refusal> {
    let Some(valid) = &config.valid else {
        return Err(Refusal::config(
            "GC without 'cni.dev/valid-attachments' would take every connection away; an empty list does",
        ));
    };
    let Some(network) = networks.recorded(&config.name)? else { return Ok(()) };
    let valid: Vec<String> =
        valid.iter().map(|valid| format!("{},{}", valid.container, valid.interface)).collect();
    Ok(networks.collect_outside(&network, &|record| valid.contains(&record.container))?)
}
