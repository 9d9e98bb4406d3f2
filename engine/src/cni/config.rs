//! The configuration of a network, as a runtime writes it to standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use mica_core::OptionMap;
use mica_core::network::{Family, Subnet};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::call::Call;
use super::refusal::{Code, Refusal};
use super::version::Version;
use super::wishes::EndpointWishes;
use crate::error::shown;
use crate::networks::{NetworkRecord, NewNetwork, Wishes};

/// The fields that an operator can write, beside the protocol's own.
const FIELDS: [&str; 14] = [
    "driver",
    "subnets",
    "gateways",
    "ranges",
    "auxiliary",
    "ipv4",
    "ipv6",
    "internal",
    "options",
    "ipMasq",
    "isDefaultGateway",
    "dns",
    "root",
    "firewall",
];

/// Those of the protocol that say nothing to the plugin.
const PASSED_OVER: [&str; 3] = ["type", "capabilities", "cniVersion"];

/// What is configured, and what the runtime adds for one call.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// The network's name.
    pub(super) name: String,
    driver: Option<String>,
    addresses: Wishes,
    internal: Option<bool>,
    options: OptionMap,
    /// Whether the container's default route goes through the network.
    pub(super) is_default_gateway: bool,
    /// What the result says of names.
    pub(super) dns: Dns,
    /// The data root.
    pub(super) root: Option<PathBuf>,
    /// The firewall that the driver writes to.
    pub(super) firewall: Option<String>,
    /// What is wished for of one endpoint.
    pub(super) wishes: EndpointWishes,
    /// The result of the plugin before this one, or of the `ADD` that this call is about.
    pub(super) previous: Option<Map<String, Value>>,
    /// The attachments that a `GC` leaves.
    pub(super) valid: Option<Vec<Valid>>,
}

/// How the names of the network are resolved. It is passed on; the runtime writes the container's files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dns {
    pub(super) nameservers: Vec<String>,
    pub(super) domain: String,
    pub(super) search: Vec<String>,
    pub(super) options: Vec<String>,
}

/// An attachment that still is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Valid {
    #[serde(rename = "containerID")]
    pub(super) container: String,
    #[serde(rename = "ifname")]
    pub(super) interface: String,
}

impl Config {
    /// Reads what is configured. Refuses a field that is not known: it would be a wish that nobody heard.
    pub(super) fn read(fields: &mut Fields, call: &Call) -> Result<Self, Refusal> {
        let name: String = fields.take("name")?.unwrap_or_default();
        if name.is_empty() {
            return Err(Refusal::config("the configuration has no 'name'; write that of the network"));
        }
        if matches!(call, Call::Del { .. } | Call::Gc) {
            return Self::of_teardown(name, fields);
        }
        let mut options = plain_options(fields.take("options")?.unwrap_or_default())?;
        if let Some(masquerade) = fields.take::<bool>("ipMasq")? {
            options.entry("masquerade".to_owned()).or_insert_with(|| masquerade.to_string());
        }
        let mut config = Self {
            driver: fields.take("driver")?,
            addresses: addresses(fields)?,
            internal: fields.take("internal")?,
            options,
            is_default_gateway: fields.take("isDefaultGateway")?.unwrap_or(true),
            dns: fields.take("dns")?.unwrap_or_default(),
            root: fields.take("root")?,
            firewall: fields.take("firewall")?,
            wishes: EndpointWishes::read(fields, call, &name)?,
            previous: fields.take("prevResult")?,
            valid: fields.take("cni.dev/valid-attachments")?,
            name,
        };
        config.wishes.resolvers(&mut config.dns);
        fields.refuse_rest()?;
        Ok(config)
    }

    /// What it takes to take something away. The rest may have become what cannot be used, and the firewall is the one that was
    /// written to.
    fn of_teardown(name: String, fields: &mut Fields) -> Result<Self, Refusal> {
        let (root, valid) = (fields.take("root")?, fields.take("cni.dev/valid-attachments")?);
        Ok(Self { name, root, valid, ..Self::default() })
    }

    /// What is made where the network is not there.
    pub(super) fn network(&self) -> NewNetwork {
        NewNetwork {
            name: self.name.clone(),
            driver: self.driver.clone(),
            addresses: self.addresses.clone(),
            internal: self.internal.unwrap_or_default(),
            options: self.options.clone(),
            labels: BTreeMap::new(),
        }
    }

    /// Refuses a network that is not as configured. What is not configured may be as it is.
    pub(super) fn check_agrees(&self, record: &NetworkRecord) -> Result<(), Refusal> {
        let pools = &record.network.pools;
        let wishes = &self.addresses;
        let checks = [
            ("driver", self.driver.iter().all(|driver| *driver == record.driver)),
            ("internal", self.internal.is_none_or(|internal| internal == record.network.internal)),
            ("subnets", wishes.subnets.iter().all(|one| pools.iter().any(|pool| pool.subnet == *one))),
            (
                "gateways",
                wishes.gateways.iter().all(|one| pools.iter().any(|pool| pool.gateway == Some(*one))),
            ),
            ("ranges", wishes.ranges.iter().all(|one| pools.iter().any(|pool| pool.range == Some(*one)))),
            ("auxiliary", wishes.auxiliary.iter().all(|(name, ip)| record.auxiliary.get(name) == Some(ip))),
            ("ipv4", wishes.ipv4.is_none_or(|wanted| wanted == record.has(Family::V4))),
            ("ipv6", wishes.ipv6.is_none_or(|wanted| wanted == record.has(Family::V6))),
            ("options", self.options.iter().all(|(name, value)| record.options.get(name) == Some(value))),
        ];
        let other: Vec<&str> =
            checks.into_iter().filter(|(_, agrees)| !agrees).map(|(field, _)| field).collect();
        if other.is_empty() {
            return Ok(());
        }
        Err(Refusal::config(format!(
            "network '{0}' was made with other {1} than the configuration says; let the configuration say what \
             'mica network inspect {0}' shows, or remove the network by 'mica network rm {0}', and it is made anew",
            self.name,
            other.join(" and "),
        )))
    }
}

fn addresses(fields: &mut Fields) -> Result<Wishes, Refusal> {
    Ok(Wishes {
        subnets: fields.take::<Vec<Subnet>>("subnets")?.unwrap_or_default(),
        gateways: fields.take::<Vec<IpAddr>>("gateways")?.unwrap_or_default(),
        ranges: fields.take::<Vec<Subnet>>("ranges")?.unwrap_or_default(),
        auxiliary: fields.take("auxiliary")?.unwrap_or_default(),
        ipv4: fields.take("ipv4")?,
        ipv6: fields.take("ipv6")?,
    })
}

/// Options are text to a driver; in JSON a number or a truth may stand for itself.
fn plain_options(given: BTreeMap<String, Value>) -> Result<OptionMap, Refusal> {
    let plain = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(_) | Value::Bool(_) => Ok((name, value.to_string())),
        _ => Err(Refusal::config(format!(
            "'options': '{}' must be a text, a number, true or false",
            name.escape_debug()
        ))),
    };
    given.into_iter().map(plain).collect()
}

/// The fields of a configuration that were not yet read.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// Nothing at all is an empty configuration: `VERSION` may come without one.
    pub(super) fn read(text: &[u8]) -> Result<Self, Refusal> {
        if text.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        let fields = serde_json::from_slice(text);
        fields.map(Self).map_err(|error| {
            Refusal::new(Code::Decode, format!("the configuration is no JSON object: {error}"))
        })
    }

    /// The version that it is written in.
    pub(super) fn version(&self) -> Result<Version, Refusal> {
        let said = self.said_version().unwrap_or("0.1.0");
        Version::named(said).ok_or_else(|| {
            let (said, known) = (said.escape_debug(), Version::names().join(", "));
            Refusal::new(Code::Version, format!("cniVersion '{said}' is not spoken here; these are: {known}"))
        })
    }

    pub(super) fn said_version(&self) -> Option<&str> {
        self.0.get("cniVersion").and_then(Value::as_str)
    }

    /// Reads a field, if it is there.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Refusal> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| Refusal::config(format!("'{name}': {error}"))),
        }
    }

    /// Refuses what nobody has read.
    fn refuse_rest(&self) -> Result<(), Refusal> {
        let is_known = |name: &str| PASSED_OVER.contains(&name) || name.starts_with("cni.dev/");
        let Some((name, value)) = self.0.iter().find(|(name, _)| !is_known(name)) else { return Ok(()) };
        let text = format!(
            "unsupported field '{}' with the value {}; those of this plugin are: {}",
            shown(name),
            shown(&value.to_string()),
            FIELDS.join(", ")
        );
        Err(Refusal::new(Code::Field, text))
    }
}
