//! `network connect` and `network disconnect`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use mica_core::network::Mac;

use super::super::container::wish;
use super::super::print;
use crate::container::ConnectWish;
use crate::{Engine, Result};

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Call it so, too, in this network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Its IPv4 address there
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address there
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Another address there, for its link alone
    #[arg(long = "link-local-ip", value_name = "ADDRESS")]
    link_local: Vec<IpAddr>,
    /// Its hardware address there
    #[arg(long = "mac-address", value_name = "ADDRESS")]
    mac: Option<Mac>,
    /// The network with the highest one is the gateway
    #[arg(long = "gw-priority", value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(i32))]
    priority: i32,
    /// Set an option of the driver for this connection
    #[arg(long = "driver-opt", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Its name or id
    network: String,
    /// The container, by name or id
    container: String,
}

#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// Do not mind what cannot be taken down
    #[arg(short, long)]
    force: bool,
    /// Its name or id
    network: String,
    /// The container, by name or id
    container: String,
}

/// Connects a container, which may run.
pub(super) fn connect(engine: &Engine, flags: &Connect) -> Result<()> {
    let mut wished = ConnectWish { mac: flags.mac, priority: flags.priority, ..ConnectWish::default() };
    let addresses = flags.ip.map(IpAddr::V4).into_iter().chain(flags.ip6.map(IpAddr::V6));
    addresses.into_iter().try_for_each(|address| wish::add(&mut wished, address))?;
    flags.link_local.iter().try_for_each(|&address| wish::link_local(&mut wished, address))?;
    flags.aliases.iter().try_for_each(|name| wish::alias(&mut wished, name))?;
    flags.options.iter().try_for_each(|option| wish::option(&mut wished, option))?;
    let notes = engine.connect(&engine.container(&flags.container)?, &flags.network, wished)?;
    notes.iter().for_each(|note| print::warning(note));
    Ok(())
}

/// Disconnects a container, which may run.
pub(super) fn disconnect(engine: &Engine, flags: &Disconnect) -> Result<()> {
    let notes = engine.disconnect(&engine.container(&flags.container)?, &flags.network, flags.force)?;
    notes.iter().for_each(|note| print::warning(note));
    Ok(())
}
