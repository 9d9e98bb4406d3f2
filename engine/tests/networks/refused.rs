//! What cannot be: one clear line, and nothing left.

use std::fs::{self, File};

use mica_core::network::{Endpoint, EndpointId};
use mica_engine::networks::EndpointRecord;

use crate::host::Host;

#[test]
fn a_network_that_cannot_be_is_refused_with_what_would_work() {
    let host = Host::new();
    host.ok(&["network", "create", "--subnet", "10.1.0.0/24", "--ipv6=false", "web"]);
    for (arguments, told) in [
        (&["web"][..], "already exists"),
        (&["host"], "the name 'host' is the engine's own"),
        (&["a/b"], "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        (&["-d", "overlay", "x"], "those that exist are: bridge, none, macvlan"),
        (&["-d", "host", "x"], "only one instance of \"host\" network is allowed"),
        (&["--subnet", "10.1.0.0/16", "x"], "network 'web' with 10.1.0.0/24"),
        (&["--subnet", "127.0.0.0/24", "x"], "interface 'lo'"),
        (&["--gateway", "10.2.0.1", "x"], "name its subnet with --subnet"),
        (&["--subnet", "10.2.0.0/24", "--gateway", "10.2.0.255", "x"], "cannot be a host's"),
        (&["--subnet", "10.2.0.0/32", "x"], "10.2.0.0/32"),
        (&["--subnet", "10.2.0.0/24", "--ip-range", "10.2.0.0/16", "x"], "10.2.0.0/16"),
        (&["--ipv4=false", "--ipv6=false", "x"], "leave one on"),
        (&["-o", "colour=red", "x"], "those of driver 'bridge' are"),
        (&["-o", "mtu", "x"], "must be NAME=VALUE"),
        (&["-o", "name=a-name-of-16-byte", "x"], "a-name-of-16-byte"),
        (&["--aux-address", "nas=here", "x"], "'here' is no address"),
        (&["-d", "none", "--subnet", "10.2.0.0/24", "x"], "does not support addresses"),
    ] {
        let text = host.fails(&[&["network", "create"], arguments].concat());
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    assert_eq!(host.names(&["-f", "type=custom"]), ["web"]);
    assert_eq!(host.links().lines().count(), 1);
    for filter in ["size=1", "dangling=maybe", "label", "type=odd"] {
        assert!(host.fails(&["network", "ls", "-f", filter]).contains("invalid filter"), "{filter}");
    }
}

#[test]
fn a_firewall_is_taken_by_the_drivers_that_have_one() {
    let host = Host::new();
    let text = host.fails(&["--firewall", "none", "network", "create", "--internal", "x"]);
    assert!(text.contains("does not support internal"), "{text}");
    host.ok(&["--firewall", "none", "network", "create", "-d", "none", "quiet"]);
    let text = host.fails(&["--firewall", "pf", "network", "create", "x"]);
    assert!(text.contains("pf"), "{text}");
    host.ok(&["--firewall", "nft", "network", "create", "--internal", "x"]);
    assert_eq!(host.inspect("x")["Internal"], true);
}

/// What a supervisor holds for as long as its container runs.
fn hold(host: &Host, container: &str) -> File {
    let dir = host.root().join("containers").join(container);
    fs::create_dir_all(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
fn a_network_in_use_is_not_removed_and_its_users_are_named() {
    let host = Host::new();
    host.ok(&["network", "create", "web"]);
    let id = EndpointId::from_bytes([3; 16]);
    let network = host.with(|networks| {
        let network = networks.get("web").unwrap().network.id;
        let endpoint = Endpoint::unrecorded(id);
        let record = EndpointRecord {
            network,
            container: "c0ffee".to_owned(),
            name: "shop".to_owned(),
            aliases: Vec::new(),
            hostname: String::new(),
            endpoint,
            loopback6: Vec::new(),
            attachment: None,
            outside: None,
        };
        networks.record_endpoint(&record).unwrap();
        assert_eq!(networks.endpoints(&network).unwrap(), [record]);
        network
    });
    let held = hold(&host, "c0ffee");
    let text = host.fails(&["network", "rm", "web"]);
    assert!(text.contains("it is in use by 'shop'"), "{text}");
    assert_eq!(host.ok(&["network", "prune", "-f"]), "");
    assert_eq!(host.inspect("web")["Containers"]["c0ffee"]["Name"], "shop");
    assert!(host.fails(&["network", "check", "--undo"]).contains("'shop'"));
    drop(held);
    // Nobody looks after the container any more. Who reads the links of this process's descriptors keeps the lock for a moment.
    let removed = |_| host.mica(&["network", "rm", "web"]).status == Some(0);
    assert!((0..50).any(removed));
    host.with(|networks| assert!(networks.endpoints(&network).unwrap().is_empty()));
}

#[test]
fn a_damaged_record_is_told_and_spoils_no_list() {
    let host = Host::new();
    host.ok(&["network", "create", "web"]);
    let id = host.ok(&["network", "create", "torn"]);
    let path = host.root().join(format!("networks/{}.json", id.trim()));
    fs::write(&path, "{").unwrap();
    let answer = host.mica(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), "bridge\nhost\nnone\nweb\n"));
    assert!(answer.err.contains("is damaged"), "{answer:?}");
    let text = host.fails(&["network", "create", "more"]);
    assert!(text.contains(path.to_str().unwrap()), "nobody knows which subnet it has: {text}");
}
