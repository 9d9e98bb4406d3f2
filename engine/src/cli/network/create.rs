//! `network create`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::{ArgAction, Args};
use mica_core::network::Subnet;

use super::super::print;
use crate::networks::{NewNetwork, Wishes};
use crate::{Engine, Error, Result};

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The driver; `mica drivers --network` lists them [default: the first]
    #[arg(short, long, value_name = "NAME")]
    driver: Option<String>,
    /// Take this subnet; one of each family [default: one that nobody has]
    #[arg(long = "subnet", value_name = "SUBNET", value_delimiter = ',')]
    subnets: Vec<Subnet>,
    /// The gateway's address [default: the first of the subnet]
    #[arg(long = "gateway", value_name = "IP", value_delimiter = ',')]
    gateways: Vec<IpAddr>,
    /// Lease addresses from this part of the subnet only
    #[arg(long = "ip-range", value_name = "SUBNET", value_delimiter = ',')]
    ranges: Vec<Subnet>,
    /// An address that something else has
    #[arg(long = "aux-address", value_name = "NAME=IP")]
    auxiliary: Vec<String>,
    /// Give addresses of IPv4 [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Give addresses of IPv6 [default: true where the host has it]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Let its containers reach each other and the host only
    #[arg(long)]
    internal: bool,
    /// Set an option of the driver; `mica drivers show NAME` lists them
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    options: Vec<String>,
    /// Give it a label
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    name: String,
}

/// Does it, and prints the id.
pub(super) fn run(engine: &Engine, flags: Create) -> Result<()> {
    let options = flags.options.iter().map(|text| pair(text, "option", "NAME=VALUE"));
    let labels = flags.labels.iter().map(|text| text.split_once('=').unwrap_or((text, "")));
    let new = NewNetwork {
        addresses: Wishes {
            auxiliary: auxiliary(&flags.auxiliary)?,
            subnets: flags.subnets,
            gateways: flags.gateways,
            ranges: flags.ranges,
            ipv4: flags.ipv4,
            ipv6: flags.ipv6,
        },
        name: flags.name,
        driver: flags.driver,
        internal: flags.internal,
        options: options.collect::<Result<_>>()?,
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    print::line(&engine.networks().create(new)?.id())
}

fn auxiliary(texts: &[String]) -> Result<BTreeMap<String, IpAddr>> {
    let mut named = BTreeMap::new();
    for text in texts {
        let (name, address) = pair(text, "auxiliary address", "NAME=IP")?;
        let address = address
            .parse()
            .map_err(|_| Error::Invalid(format!("auxiliary address '{text}': '{address}' is no address")))?;
        if named.insert(name.clone(), address).is_some() {
            return Err(Error::Invalid(format!("auxiliary address '{name}' is given twice; take two names")));
        }
    }
    Ok(named)
}

fn pair(text: &str, what: &str, form: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::Invalid(format!("{what} '{}' must be {form}", text.escape_debug()))),
    }
}
