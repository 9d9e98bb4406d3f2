//! `network check`: the records against the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use mica_core::network::{EndpointId, Network};

use crate::host::Host;

/// Makes it and brings it up, as for a container; its interface.
fn standing(host: &Host, name: &str) -> String {
    host.ok(&["network", "create", name]);
    host.with(|networks| {
        let record = networks.get(name).unwrap();
        networks.up(&record).unwrap();
        record.network.interface.unwrap().to_string()
    })
}

#[test]
fn what_no_record_names_is_found_and_removed() {
    let host = Host::new();
    let kept = standing(&host, "kept");
    let lost = standing(&host, "lost");
    let before = host.links();
    assert_eq!(host.ok(&["network", "check"]), "nothing to do\n");
    let Network { id, .. } = host.with(|networks| networks.get("lost").unwrap().network);
    fs::remove_file(host.root().join(format!("networks/{id}.json"))).unwrap();
    let text = host.fails(&["network", "check"]);
    assert!(text.contains(&id.to_string()) && text.contains(&lost) && !text.contains(&kept), "{text}");
    assert_eq!(host.links(), before, "a check touches nothing");
    let text = host.ok(&["network", "check", "--repair"]);
    assert!(text.contains(&format!("removed network '{id}'")), "{text}");
    assert!(host.links().contains(&kept) && !host.links().contains(&lost));
    assert_eq!(host.ok(&["network", "check"]), "nothing to do\n");
}

#[test]
fn what_somebody_took_away_from_a_network_is_made_again() {
    let host = Host::new();
    let bridge = standing(&host, "web");
    let nft = |arguments: &[&str]| host.run(std::process::Command::new("nft").args(arguments));
    let before = nft(&["list", "ruleset"]).out;
    assert!(!before.is_empty());
    assert_eq!(nft(&["flush", "ruleset"]).status, Some(0));
    let text = host.ok(&["network", "check", "--repair"]);
    assert!(text.contains("made "), "{text}");
    assert_eq!(nft(&["list", "ruleset"]).out, before);
    assert!(host.links().contains(&bridge));
}

#[test]
fn addresses_of_whom_nobody_knows_are_given_back() {
    let host = Host::new();
    host.ok(&["network", "create", "--subnet", "10.5.0.0/30", "--ipv6=false", "small"]);
    let lease = |id: u8| {
        host.with(|networks| {
            let record = networks.get("small").unwrap();
            let lease = networks.lease(&record, EndpointId::from_bytes([id; 16]), &[], &BTreeSet::new());
            lease.map(|lease| lease.addresses)
        })
    };
    assert_eq!(lease(1).unwrap(), ["10.5.0.2".parse::<IpAddr>().unwrap()]);
    let text = host.ok(&["network", "check", "--repair"]);
    assert!(text.contains("gave back the addresses of 1 endpoint(s) of network 'small'"), "{text}");
    assert_eq!(lease(2).unwrap(), ["10.5.0.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn undo_leaves_the_host_as_it_was_and_the_records() {
    let host = Host::new();
    let forwarding = host.setting("ipv4/ip_forward");
    let bridge = standing(&host, "web");
    assert_ne!(host.setting("ipv4/ip_forward"), forwarding);
    let text = host.ok(&["network", "check", "--undo"]);
    assert!(text.contains("changed net.ipv4.ip_forward of the host from 1 to 0"), "{text}");
    assert_eq!(host.setting("ipv4/ip_forward"), forwarding);
    assert!(!host.links().contains(&bridge));
    let left = host.run(std::process::Command::new("nft").args(["list", "ruleset"]));
    assert_eq!(left.out, "");
    assert_eq!(host.names(&["-f", "type=custom"]), ["web"]);
    assert_eq!(host.ok(&["network", "check", "--undo"]), "nothing to do\n");
}
