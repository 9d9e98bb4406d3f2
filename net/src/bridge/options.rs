//! The options of a network of this driver, and Docker's names for them.

use std::net::Ipv4Addr;

use mica_core::options::OptionMap;
use mica_core::{Error, Result, options};

use super::NAME;

mica_core::driver_options! {
    /// What `mica network create -o NAME=VALUE` sets.
    pub(super) struct Options {
        /// The address of the host at which ports are published that name none, such as 127.0.0.1; it is one of IPv4, so
        /// they are not published by IPv6 then. Without it, or with 0.0.0.0, at all of the host's.
        binding: Option<Ipv4Addr> = None,
        /// Containers of the network reach each other. Without, each reaches the host and the world only; where the
        /// host has br_netfilter, a port of the same network that is published at the host's address not either.
        icc: bool = true,
        /// Connections to other networks bear the host's address. Without, the routers there must know the subnet.
        masquerade: bool = true,
        /// The MTU of every interface; without it that of the host's default route.
        mtu: Option<u32> = None,
        /// The name of the bridge; without it one derived from the network's id.
        name: Option<String> = None,
    }
}

/// Docker's names, with ours.
const DOCKERS: [(&str, &str); 5] = [
    ("com.docker.network.bridge.enable_icc", "icc"),
    ("com.docker.network.bridge.enable_ip_masquerade", "masquerade"),
    ("com.docker.network.bridge.host_binding_ipv4", "binding"),
    ("com.docker.network.bridge.name", "name"),
    ("com.docker.network.driver.mtu", "mtu"),
];

/// Docker's names for what a gateway does with packets. Of its modes there is one under that name here.
const GATEWAY_MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];

impl Options {
    /// Reads what was given, under either name.
    pub(super) fn read(given: &OptionMap) -> Result<Self> {
        let mut own = OptionMap::new();
        for (name, value) in given {
            if GATEWAY_MODES.contains(&name.as_str()) {
                check_gateway_mode(name, value)?;
                continue;
            }
            let Some((_, ours)) = DOCKERS.iter().find(|(docker, _)| docker == name) else {
                own.insert(name.clone(), value.clone());
                continue;
            };
            if given.get(*ours).is_some_and(|other| other != value) {
                return Err(Error::Options(format!(
                    "options '{name}' and '{ours}' are one and have two values; give one of them"
                )));
            }
            let is_bool = Self::DOCS.iter().any(|doc| doc.name == *ours && doc.kind == "bool");
            let value = as_bool(value).filter(|_| is_bool).unwrap_or(value);
            own.insert((*ours).to_owned(), value.to_owned());
        }
        options::parse_network(NAME, &own, Self::DOCS)
    }

    /// What is recorded: all that is not in a field of the network itself.
    pub(super) fn recorded(&self) -> OptionMap {
        [("icc", self.icc), ("masquerade", self.masquerade)]
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .into()
    }
}

fn check_gateway_mode(name: &str, mode: &str) -> Result<()> {
    let instead = match mode {
        "nat" => return Ok(()),
        "routed" => "; for addresses that routers know give 'masquerade=false'",
        "isolated" => "; for a network that is cut off give '--internal'",
        _ => "",
    };
    let mode = mode.escape_debug();
    Err(Error::Options(format!("option '{name}' cannot be '{mode}', only 'nat'{instead}")))
}

/// The ways in which Docker's clients write a boolean (those of Go's `ParseBool`).
fn as_bool(value: &str) -> Option<&'static str> {
    match value {
        "1" | "t" | "T" | "TRUE" | "True" => Some("true"),
        "0" | "f" | "F" | "FALSE" | "False" => Some("false"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Options> {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options::read(&given.collect())
    }

    #[test]
    fn dockers_names_are_understood() {
        let options = read(&[
            ("com.docker.network.bridge.enable_icc", "False"),
            ("com.docker.network.bridge.name", "t"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
        ])
        .unwrap();
        assert_eq!(options.binding, Some(Ipv4Addr::LOCALHOST));
        assert!(!options.icc && options.masquerade);
        assert_eq!((options.name.as_deref(), options.mtu), (Some("t"), Some(1400)));
    }

    #[test]
    fn a_gateway_translates_and_another_mode_is_refused_with_what_comes_near() {
        let mode = |mode| read(&[(GATEWAY_MODES[0], mode)]);
        assert!(mode("nat").unwrap().masquerade);
        for (refused, instead) in
            [("routed", "masquerade=false"), ("isolated", "--internal"), ("x", "only 'nat'")]
        {
            let text = mode(refused).unwrap_err().to_string();
            assert!(text.contains(refused) && text.contains(instead), "{text}");
        }
    }

    #[test]
    fn one_option_under_two_names_cannot_have_two_values() {
        let text = read(&[("icc", "true"), ("com.docker.network.bridge.enable_icc", "false")]);
        assert!(text.unwrap_err().to_string().contains("give one of them"));
    }

    #[test]
    fn an_unknown_option_is_refused_with_those_that_exist() {
        let text = read(&[("com.docker.network.bridge.trusted", "x")]).unwrap_err().to_string();
        assert!(
            text.ends_with("those of driver 'bridge' are: binding, icc, masquerade, mtu, name"),
            "{text}"
        );
    }
}
