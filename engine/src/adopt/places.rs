//! The places that an old container had in networks, in words of ours.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mica_names::HostName;
use serde::Deserialize;

use super::config::nullable;
use crate::container::ConnectWish;
use crate::error::shown;

/// `NetworkSettings`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct OldPlaces {
    /// By the networks' names.
    #[serde(deserialize_with = "nullable")]
    networks: BTreeMap<String, Option<OldPlace>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OldPlace {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    network: String,
    #[serde(rename = "IPAMConfig", deserialize_with = "nullable")]
    wished: OldAddresses,
    #[serde(deserialize_with = "nullable")]
    aliases: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    links: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    driver_opts: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    desired_mac_address: String,
    #[serde(deserialize_with = "nullable")]
    gw_priority: i32,
}

/// Those that were asked for. What else it had it got by chance.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OldAddresses {
    #[serde(rename = "IPv4Address", deserialize_with = "nullable")]
    v4: String,
    #[serde(rename = "IPv6Address", deserialize_with = "nullable")]
    v6: String,
    #[serde(rename = "LinkLocalIPs", deserialize_with = "nullable")]
    link_local: Vec<String>,
}

impl OldPlaces {
    /// Each network with what is wished for there, first the one that the container was made for, by its name or id. That one
    /// stands for all in a record without any. `mac` is the container's own wish, and `id` its own. What cannot be had is added to
    /// what is lost.
    pub(super) fn translate(
        self,
        first: &str,
        id: &str,
        mac: &str,
        lost: &mut Vec<String>,
    ) -> Vec<(String, ConnectWish)> {
        let mut places: Vec<_> = self.networks.into_iter().collect();
        if places.is_empty() {
            places.push((first.to_owned(), None));
        }
        let is_first = |(name, place): &(String, Option<OldPlace>)| {
            name == first || place.as_ref().is_some_and(|place| place.network == first)
        };
        places.sort_by_key(|place| !is_first(place));
        let mut translated = Vec::new();
        for (name, place) in places {
            let mut place = place.unwrap_or_default();
            if translated.is_empty() && place.desired_mac_address.is_empty() {
                mac.clone_into(&mut place.desired_mac_address);
            }
            let mut without = Vec::new();
            let wish = place.translate(id, &mut without);
            if !without.is_empty() {
                lost.push(format!("it comes without {} in network '{}'", without.join(", "), shown(&name)));
            }
            translated.push((name, wish));
        }
        translated
    }
}

impl OldPlace {
    fn translate(self, id: &str, without: &mut Vec<String>) -> ConnectWish {
        let mut wish = ConnectWish { priority: self.gw_priority, ..ConnectWish::default() };
        let mut addresses = |texts: Vec<String>| {
            let mut known: Vec<IpAddr> = Vec::new();
            for text in texts.into_iter().filter(|text| !text.is_empty()) {
                match text.parse() {
                    Ok(address) => known.push(address),
                    Err(_) => without.push(format!("the address '{}'", shown(&text))),
                }
            }
            known
        };
        wish.addresses = addresses(vec![self.wished.v4, self.wished.v6]);
        wish.link_local = addresses(self.wished.link_local);
        // Docker adds the beginning of the id, by which every container is known here.
        for name in self.aliases.into_iter().filter(|name| !id.starts_with(name.as_str())) {
            match name.parse::<HostName>() {
                Ok(name) => wish.aliases.push(name.to_string()),
                Err(_) => without.push(format!("the alias '{}'", shown(&name))),
            }
        }
        if !self.desired_mac_address.is_empty() {
            wish.mac = self.desired_mac_address.parse().ok();
            without.extend(
                wish.mac
                    .is_none()
                    .then(|| format!("the hardware address '{}'", shown(&self.desired_mac_address))),
            );
        }
        without.extend(self.links.iter().map(|link| format!("the link '{}'", shown(link))));
        without.extend(self.driver_opts.keys().map(|name| format!("the driver option '{}'", shown(name))));
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(text: &str) -> (Vec<(String, ConnectWish)>, Vec<String>) {
        let old: OldPlaces = serde_json::from_str(text).unwrap();
        let mut lost = Vec::new();
        (old.translate("web", "0123456789abcdef", "02:42:00:00:00:07", &mut lost), lost)
    }

    /// As Docker 20.10 writes it, but for what says where the container was when it last ran.
    #[test]
    fn it_is_in_every_network_in_which_it_was_and_the_one_that_it_was_made_for_is_the_first() {
        let (places, lost) = translate(
            r#"{"Bridge":"","SandboxID":"5a","Ports":{},"Networks":{
                "back":{"IPAMConfig":{},"Links":null,"Aliases":["0123456789ab"],"NetworkID":"b1","EndpointID":"",
                    "Gateway":"","IPAddress":"","MacAddress":"","DriverOpts":null,"IPAMOperational":false},
                "bridge":null,
                "web":{"IPAMConfig":{"IPv4Address":"10.9.0.9","IPv6Address":"fd09::9","LinkLocalIPs":["169.254.1.9"]},
                    "Aliases":["store","0123456789ab"],"NetworkID":"a1","DriverOpts":null}}}"#,
        );
        assert!(lost.is_empty(), "{lost:?}");
        let names: Vec<_> = places.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["web", "back", "bridge"]);
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let first = ConnectWish {
            aliases: vec!["store".to_owned()],
            addresses: addresses(&["10.9.0.9", "fd09::9"]),
            link_local: addresses(&["169.254.1.9"]),
            mac: Some("02:42:00:00:00:07".parse().unwrap()),
            ..ConnectWish::default()
        };
        assert_eq!(places[0].1, first);
        assert_eq!(places[1].1, ConnectWish::default());
    }

    #[test]
    fn a_network_may_be_named_by_its_id_and_a_record_may_have_none() {
        let (places, _) = translate(r#"{"Networks":{"a":{"NetworkID":"0"},"b":{"NetworkID":"web"}}}"#);
        assert_eq!(places[0].0, "b");
        for text in ["{}", r#"{"Networks":null}"#] {
            let (places, _) = translate(text);
            assert_eq!(places.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["web"]);
        }
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let (places, lost) = translate(
            r#"{"Networks":{"web":{"IPAMConfig":{"IPv4Address":"nine"},"Aliases":["a b"],"Links":["db:sql"],
                "DesiredMacAddress":"x","DriverOpts":{"rate":"1"}}}}"#,
        );
        assert_eq!(places[0].1, ConnectWish::default());
        assert_eq!(
            lost,
            [
                "it comes without the address 'nine', the alias 'a b', the hardware address 'x', the link 'db:sql', the driver \
              option 'rate' in network 'web'"
            ]
        );
    }
}
