//! What a network is from its making to its end, and which ones there always are.

use std::process::Command;
use std::thread;

use serde_json::json;

use crate::host::Host;

#[test]
fn a_network_is_made_shown_and_removed() {
    let host = Host::new();
    let create = ["network", "create", "--label", "a=1", "--label", "b", "-o", "mtu=1400", "web"];
    let id = host.ok(&create).trim().to_owned();
    let shown = host.inspect("web");
    let created = shown["Created"].clone();
    assert!(created.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{created}");
    let subnets = host.subnets("web");
    let gateways = [&shown["IPAM"]["Config"][0]["Gateway"], &shown["IPAM"]["Config"][1]["Gateway"]];
    let expected = json!({
        "Name": "web",
        "Id": id,
        "Created": created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": true,
        "IPAM": { "Driver": "default", "Options": {}, "Config": [
            { "Subnet": subnets[0], "Gateway": gateways[0] },
            { "Subnet": subnets[1], "Gateway": gateways[1] },
        ]},
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": { "mtu": "1400" },
        "Labels": { "a": "1", "b": "" },
    });
    assert_eq!(shown, expected);
    assert!(subnets[1].starts_with("fd"), "{subnets:?}");
    for name in [&id[..4], &id] {
        assert_eq!(host.ok(&["network", "inspect", "-f", "{{.Name}}", name]), "web\n");
    }
    assert_eq!(host.links().lines().count(), 1, "a network that nobody uses is not in the kernel");
    assert_eq!(host.ok(&["network", "rm", "web"]), "web\n");
    assert!(host.fails(&["network", "inspect", "-f", "{{.Name}}", "web"]).contains("no such network: web"));
    assert!(host.fails(&["network", "rm", "web"]).contains("no such network: web"));
    assert_eq!(host.ok(&["network", "rm", "-f", "web"]), "web\n");
}

#[test]
fn the_engines_own_networks_are_always_there_and_stay() {
    let host = Host::new();
    assert_eq!(host.names(&[]), ["bridge", "host", "none"]);
    let before = host.ok(&["network", "ls", "-q", "--no-trunc"]);
    assert_eq!(host.inspect("bridge")["Driver"], "bridge");
    assert_eq!(host.subnets("bridge").len(), 2);
    host.with(|networks| {
        let record = networks.get("bridge").unwrap();
        assert_eq!(record.network.interface.unwrap().as_str(), "mica0");
    });
    assert_eq!(host.ok(&["network", "ls", "-q", "--no-trunc"]), before, "their ids stay");
    for name in ["bridge", "host", "none"] {
        let text = host.fails(&["network", "rm", name]);
        assert!(text.contains(&format!("{name} is a pre-defined network and cannot be removed")), "{text}");
    }
    host.ok(&["network", "create", "web"]);
    assert_eq!(host.ok(&["network", "prune", "-f"]), "Deleted Networks:\nweb\n\n");
    assert_eq!(host.names(&[]), ["bridge", "host", "none"]);
}

#[test]
fn networks_are_listed_as_docker_lists_them() {
    let host = Host::new();
    let id = host.ok(&["network", "create", "-d", "none", "--label", "a=1", "quiet"]);
    let listed = host.ok(&["network", "ls"]);
    assert!(listed.starts_with("NETWORK ID     NAME      DRIVER    SCOPE\n"), "{listed}");
    assert!(listed.contains(&format!("{}   quiet     none      local\n", &id[..12])), "{listed}");
    for (filter, names) in [
        ("driver=none", &["none", "quiet"][..]),
        ("type=custom", &["quiet"]),
        ("type=builtin", &["bridge", "host", "none"]),
        ("dangling=true", &["quiet"]),
        ("label=a=1", &["quiet"]),
        ("label=b", &[]),
        ("name=ui", &["quiet"]),
        (&format!("id={}", &id[..7]), &["quiet"]),
    ] {
        assert_eq!(host.names(&["-f", filter]), names, "{filter}");
    }
    assert_eq!(host.names(&["-f", "name=quiet", "-f", "driver=bridge"]), [""; 0]);
    assert_eq!(host.ok(&["network", "prune", "--filter", "label!=a"]), "");
    assert_eq!(host.ok(&["network", "prune", "--filter", "until=1h"]), "", "it is younger");
}

#[test]
fn a_subnet_is_chosen_where_neither_the_host_nor_a_network_is() {
    let host = Host::new();
    host.ip("link add lan0 type veth peer name lan1");
    host.ip("addr add 172.16.0.7/23 dev lan0");
    host.ip("link set lan0 up");
    host.ok(&["network", "create", "one"]);
    host.ok(&["network", "create", "two"]);
    assert_eq!(host.subnets("one")[0], "172.16.2.0/24");
    assert_eq!(host.subnets("two")[0], "172.16.3.0/24");
    assert_ne!(host.subnets("one")[1], host.subnets("two")[1]);
}

#[test]
fn networks_that_are_made_at_once_have_subnets_of_their_own() {
    let host = Host::new();
    let names: Vec<String> = (0..8).map(|number| format!("n{number}")).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.ok(&["network", "create", name]));
        }
    });
    let mut subnets: Vec<String> = names.iter().flat_map(|name| host.subnets(name)).collect();
    subnets.sort();
    subnets.dedup();
    assert_eq!(subnets.len(), 16, "{subnets:?}");
}

#[test]
fn a_host_without_ipv6_has_networks_of_ipv4() {
    let host = Host::new();
    host.set("ipv6/conf/all/disable_ipv6", "1");
    host.ok(&["network", "create", "web"]);
    assert_eq!(host.subnets("web").len(), 1);
    let text = host.fails(&["network", "create", "--ipv6", "six"]);
    assert!(text.contains("disable_ipv6 is 1"), "{text}");
    assert_eq!(host.names(&["-f", "type=custom"]), ["web"]);
}

#[test]
fn what_was_said_of_the_addresses_is_kept() {
    let host = Host::new();
    let words = "network create --subnet 10.9.0.0/16,fd99::/64 --gateway 10.9.0.3 --ip-range 10.9.1.0/24 \
                 --aux-address nas=10.9.0.9 -d bridge web";
    host.ok(&words.split_whitespace().collect::<Vec<_>>());
    let expected = json!([
        { "Subnet": "10.9.0.0/16", "IPRange": "10.9.1.0/24", "Gateway": "10.9.0.3",
          "AuxiliaryAddresses": { "nas": "10.9.0.9" } },
        { "Subnet": "fd99::/64", "Gateway": "fd99::1" },
    ]);
    assert_eq!(host.inspect("web")["IPAM"]["Config"], expected);
}

#[test]
fn a_network_that_stands_on_the_hosts_own_may_have_its_subnet() {
    let host = Host::new();
    host.ip("link add lan0 type veth peer name lan1");
    host.ip("addr add 192.0.2.1/24 dev lan0");
    host.ip("link set lan0 up");
    let words = "network create -d macvlan -o parent=lan0 --subnet 192.0.2.0/24 --ipv6=false lan";
    host.ok(&words.split(' ').collect::<Vec<_>>());
    assert_eq!(host.subnets("lan"), ["192.0.2.0/24"]);
    let text = host.fails(&["network", "create", "--subnet", "192.0.2.0/25", "web"]);
    assert!(text.contains("network 'lan' with 192.0.2.0/24"), "{text}");
}

#[test]
fn a_network_is_found_by_inspect_among_all_things() {
    let host = Host::new();
    host.ok(&["network", "create", "web"]);
    assert_eq!(host.ok(&["inspect", "-f", "{{.Driver}}", "web"]), "bridge\n");
    assert_eq!(host.ok(&["inspect", "--type", "network", "-f", "{{.Scope}}", "host"]), "local\n");
    assert!(host.fails(&["inspect", "-f", "{{.Id}}", "nothing"]).contains("no such object"));
}

#[test]
fn the_default_bridge_has_another_name_where_its_own_is_taken() {
    let host = Host::new();
    assert_eq!(host.run(Command::new("ip").args(["link", "add", "mica0", "type", "bridge"])).status, Some(0));
    host.with(|networks| {
        let record = networks.get("bridge").unwrap();
        let interface = record.network.interface.unwrap();
        assert!(interface.as_str().starts_with("mica") && interface.as_str() != "mica0", "{interface}");
    });
}
