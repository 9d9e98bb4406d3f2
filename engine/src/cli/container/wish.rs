//! What is said of one network that a container is to be connected to: `NETWORK`, or `name=NETWORK,alias=…,ip=…`.

use std::net::IpAddr;

use mica_core::network::Family;
use mica_names::HostName;

use crate::container::ConnectWish;
use crate::{Error, Result};

/// The driver option that is the name of the interface inside, for every driver.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";

const FIELDS: &str = "name, alias, driver-opt, gw-priority, ip, ip6, link-local-ip, mac-address";

/// A network by its name, with what is wished for there.
pub(in crate::cli) fn parse(text: &str) -> Result<(String, ConnectWish)> {
    if !text.contains('=') {
        return Ok((text.to_owned(), ConnectWish::default()));
    }
    let refuse = |why: String| Error::Invalid(format!("invalid network '{}': {why}", text.escape_debug()));
    let mut name = None;
    let mut wish = ConnectWish::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let set = match key.to_ascii_lowercase().as_str() {
            "name" => {
                name = Some(value.to_owned());
                Ok(())
            }
            "alias" => alias(&mut wish, value),
            "driver-opt" => option(&mut wish, value),
            "gw-priority" => priority(value).map(|priority| wish.priority = priority),
            "ip" => address_of(Family::V4, value).and_then(|ip| add(&mut wish, ip)),
            "ip6" => address_of(Family::V6, value).and_then(|ip| add(&mut wish, ip)),
            "link-local-ip" => address(value).and_then(|ip| link_local(&mut wish, ip)),
            "mac-address" => mac(&mut wish, value),
            _ => Err(Error::Invalid(format!(
                "unknown field '{}'; those that exist are: {FIELDS}",
                key.escape_debug()
            ))),
        };
        set.map_err(|error| refuse(error.to_string()))?;
    }
    match name.filter(|name| !name.is_empty()) {
        Some(name) => Ok((name, wish)),
        None => Err(refuse("it does not say which; write name=NETWORK".to_owned())),
    }
}

/// Adds what else a container is called.
pub(in crate::cli) fn alias(wish: &mut ConnectWish, name: &str) -> Result<()> {
    wish.aliases.push(name.parse::<HostName>()?.to_string());
    Ok(())
}

/// Adds `NAME=VALUE`, an option of the driver.
pub(in crate::cli) fn option(wish: &mut ConnectWish, text: &str) -> Result<()> {
    match text.split_once('=') {
        Some((INTERFACE, name)) => wish.interface = Some(name.parse()?),
        Some((name, value)) if !name.is_empty() => {
            wish.options.insert(name.to_owned(), value.to_owned());
        }
        _ => {
            return Err(Error::Invalid(format!(
                "driver option '{}' must be NAME=VALUE",
                text.escape_debug()
            )));
        }
    }
    Ok(())
}

/// Adds an address; one a family.
pub(in crate::cli) fn add(wish: &mut ConnectWish, address: IpAddr) -> Result<()> {
    if let Some(other) = wish.addresses.iter().find(|other| other.is_ipv4() == address.is_ipv4()) {
        return Err(Error::Invalid(format!(
            "addresses {other} and {address}: a container has one of each family in a network"
        )));
    }
    wish.addresses.push(address);
    Ok(())
}

/// Adds an address of the link alone.
pub(in crate::cli) fn link_local(wish: &mut ConnectWish, address: IpAddr) -> Result<()> {
    let is_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if !is_local {
        return Err(Error::Invalid(format!(
            "{address} is no link-local address; those are in 169.254.0.0/16 and fe80::/10"
        )));
    }
    wish.link_local.push(address);
    Ok(())
}

fn mac(wish: &mut ConnectWish, text: &str) -> Result<()> {
    wish.mac = Some(text.parse()?);
    Ok(())
}

fn priority(text: &str) -> Result<i32> {
    text.parse().map_err(|_| Error::Invalid(format!("gw-priority '{}' is no number", text.escape_debug())))
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::Invalid(format!("'{}' is no IP address", text.escape_debug())))
}

fn address_of(family: Family, text: &str) -> Result<IpAddr> {
    let address = address(text)?;
    if Family::of(address) == family {
        return Ok(address);
    }
    Err(Error::Invalid(format!("{address} is no address of {family}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_named_alone_or_with_what_is_wished_for_there() {
        assert_eq!(parse("web").unwrap(), ("web".to_owned(), ConnectWish::default()));
        let text = "name=web,alias=a,alias=b,ip=10.0.0.9,ip6=fd00::9,link-local-ip=169.254.0.9,\
                    mac-address=02:00:00:00:00:09,gw-priority=-1,driver-opt=a=b=c,\
                    driver-opt=com.docker.network.endpoint.ifname=lan";
        let (name, wish) = parse(text).unwrap();
        let expected = ConnectWish {
            aliases: vec!["a".to_owned(), "b".to_owned()],
            addresses: vec!["10.0.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            link_local: vec!["169.254.0.9".parse().unwrap()],
            mac: Some("02:00:00:00:00:09".parse().unwrap()),
            priority: -1,
            interface: Some("lan".parse().unwrap()),
            options: [("a".to_owned(), "b=c".to_owned())].into(),
        };
        assert_eq!((name.as_str(), wish), ("web", expected));
    }

    #[test]
    fn what_cannot_be_wished_for_is_refused_with_what_is_wrong() {
        for (text, why) in [
            ("ip=10.0.0.9", "write name=NETWORK"),
            ("name=", "write name=NETWORK"),
            ("name=web,alias", "'' cannot be the name of a host"),
            ("web,alias=x", "unknown field 'web'"),
            ("name=web,colour=red", "unknown field 'colour'; those that exist are: name, alias"),
            ("name=web,ip=x", "'x' is no IP address"),
            ("name=web,ip=fd00::9", "fd00::9 is no address of IPv4"),
            ("name=web,ip6=10.0.0.9", "10.0.0.9 is no address of IPv6"),
            ("name=web,ip=10.0.0.9,ip=10.0.0.8", "one of each family"),
            ("name=web,link-local-ip=10.0.0.9", "no link-local address"),
            ("name=web,mac-address=x", "'x' is no MAC address"),
            ("name=web,alias=a b", "'a b' cannot be the name of a host"),
            ("name=web,gw-priority=high", "'high' is no number"),
            ("name=web,driver-opt=x", "driver option 'x' must be NAME=VALUE"),
            ("name=web,driver-opt=com.docker.network.endpoint.ifname=0123456789abcdef", "15 bytes"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.starts_with(&format!("invalid network '{text}': ")) && said.contains(why), "{said}");
        }
    }
}
