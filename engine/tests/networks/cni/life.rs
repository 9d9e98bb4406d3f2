//! A container from its `ADD` to its `DEL`, in each version of the protocol.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use super::{Pod, Runtime};

#[test]
fn a_container_is_connected_checked_and_disconnected() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let config = runtime.config(&json!({}));
    runtime.add(&other, &config);
    let before = runtime.state();
    let result = runtime.add(&one, &config);
    let mac = result["interfaces"][0]["mac"].clone();
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "eth0", "mac": mac, "mtu": 1500, "sandbox": one.path }],
        "ips": [{ "address": "10.22.0.3/24", "gateway": "10.22.0.1", "interface": 0 }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.22.0.1" }],
        "dns": {},
    });
    assert_eq!(result, expected);
    let inside = one.ip("addr show eth0");
    assert!(inside.contains("inet 10.22.0.3/24") && inside.contains(mac.as_str().unwrap()), "{inside}");
    assert!(one.ip("route").contains("default via 10.22.0.1 dev eth0"));
    other.serve(80);
    assert_eq!(one.ask("10.22.0.2:80"), "10.22.0.3");
    let with_result = runtime.config(&json!({ "prevResult": result }));
    assert_eq!(runtime.ok("CHECK", &one, &with_result), "");
    assert_eq!(runtime.ok("DEL", &one, &with_result), "");
    assert_eq!(one.ip("-o link").lines().count(), 1, "the namespace is as it was");
    assert_eq!(runtime.state(), before);
    assert_eq!(runtime.ok("DEL", &one, &config), "", "what is gone is gone");
    assert_eq!(runtime.refused("CHECK", Some(&one), &with_result).0, 3);
    assert_eq!(runtime.add(&one, &config)["ips"][0]["address"], "10.22.0.4/24");
}

#[test]
fn a_network_of_the_plugin_is_a_network_like_any_other() {
    let runtime = Runtime::new();
    let pod = Pod::new("shop");
    runtime.add(&pod, &runtime.config(&json!({ "options": { "mtu": 1400 } })));
    let shown = runtime.host.inspect("pods");
    assert_eq!(shown["IPAM"]["Config"], json!([{ "Subnet": "10.22.0.0/24", "Gateway": "10.22.0.1" }]));
    assert_eq!(shown["Options"], json!({ "mtu": "1400" }));
    assert_eq!(shown["Containers"]["shop,eth0"]["IPv4Address"], "10.22.0.2/24");
    let text = runtime.host.fails(&["network", "rm", "pods"]);
    assert!(text.contains("it is in use by 'shop'"), "{text}");
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    runtime.ok("DEL", &pod, &runtime.config(&json!({})));
    assert_eq!(runtime.host.ok(&["network", "rm", "pods"]), "pods\n");
    assert_eq!(runtime.host.links().lines().count(), 1);
}

#[test]
fn a_network_that_is_there_is_used_if_it_is_as_configured() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    runtime.host.ok(&[
        "network",
        "create",
        "--subnet",
        "10.9.0.0/24",
        "--ipv6=false",
        "-o",
        "icc=false",
        "pods",
    ]);
    for (field, value) in [
        ("subnets", json!(["10.22.0.0/24"])),
        ("driver", json!("macvlan")),
        ("internal", json!(true)),
        ("options", json!({ "icc": true })),
    ] {
        let mut config = runtime.config(&json!({ "subnets": [] }));
        config[field] = value;
        let (code, text) = runtime.refused("ADD", Some(&pod), &config);
        assert!(code == 7 && text.contains(&format!("with other {field} than")), "{text}");
        assert_eq!(runtime.refused("STATUS", None, &config).0, 7);
    }
    let result = runtime.add(&pod, &runtime.config(&json!({ "subnets": [] })));
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/24");
}

#[test]
fn a_result_is_what_its_version_of_the_protocol_has() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    for (version, mtu, family) in [
        ("0.3.0", false, true),
        ("0.3.1", false, true),
        ("0.4.0", false, true),
        ("1.0.0", false, false),
        ("1.1.0", true, false),
    ] {
        let config = runtime.config(
            &json!({ "cniVersion": version, "subnets": ["10.22.0.0/24", "fd22::/64"], "ipv6": true }),
        );
        let result = runtime.add(&pod, &config);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), mtu, "{version}");
        let families = [0, 1].map(|at| result["ips"][at]["version"].as_str().unwrap_or_default());
        assert_eq!(families, if family { ["4", "6"] } else { [""; 2] }, "{version}");
        assert_eq!(result["routes"][1], json!({ "dst": "::/0", "gw": "fd22::1" }));
        runtime.ok("DEL", &pod, &config);
    }
    for (version, verb) in
        [("0.3.1", "CHECK"), ("1.0.0", "GC"), ("0.4.0", "STATUS"), ("0.2.0", "ADD"), ("2.0.0", "ADD")]
    {
        let (code, text) =
            runtime.refused(verb, Some(&pod), &runtime.config(&json!({ "cniVersion": version })));
        assert!(code == 1 && text.contains(version), "{text}");
    }
    let answer = runtime.call("VERSION", None, &json!({ "cniVersion": "1.0.0" }));
    let told: Value = serde_json::from_str(&answer.out).unwrap();
    let spoken = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(told, json!({ "cniVersion": "1.0.0", "supportedVersions": spoken }));
}

#[test]
fn what_a_runtime_wishes_for_one_container_it_gets() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let wishes = json!({
        "ips": ["10.22.0.77/24"],
        "mac": "02:00:00:00:22:01",
        "aliases": ["shop"],
        "dns": { "servers": ["10.22.0.1"], "searches": ["example.org"], "options": [] },
    });
    let config = runtime.config(&json!({ "runtimeConfig": wishes, "dns": { "domain": "local" } }));
    let result = runtime.add(&one, &config);
    assert_eq!(result["ips"][0]["address"], "10.22.0.77/24");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:22:01");
    assert_eq!(result["dns"], json!({ "nameservers": ["10.22.0.1"], "search": ["example.org"] }));
    let aliases = runtime.host.with(|networks| {
        let network = networks.get("pods").unwrap().network.id;
        networks.endpoints(&network).unwrap().remove(0).aliases
    });
    assert_eq!(aliases, ["shop"]);
    let (code, text) = runtime.refused("ADD", Some(&other), &config);
    assert!(code == 101 && text.contains("container 'one'"), "{text}");
    let flat = "IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.22.0.78;MAC=02:00:00:00:22:02";
    let mut command = runtime.command("ADD", Some(&other), &runtime.config(&json!({})));
    let answer = runtime.host.run(command.env("CNI_ARGS", flat));
    let result: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.22.0.78/24");
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:22:02");
    let connected = runtime.host.inspect("pods")["Containers"].clone();
    assert_eq!([&connected["one,eth0"]["Name"], &connected["other,eth0"]["Name"]], ["one", "x"]);
}

#[test]
fn a_published_port_leads_to_the_container_and_is_nobody_elses() {
    let runtime = Runtime::new();
    let (one, other, third) = (Pod::new("one"), Pod::new("other"), Pod::new("third"));
    let mapped = |host: u16, container: u16| {
        let mappings = json!([{ "hostPort": host, "containerPort": container, "protocol": "TCP" }]);
        runtime.config(&json!({ "runtimeConfig": { "portMappings": mappings } }))
    };
    runtime.add(&one, &mapped(8080, 80));
    runtime.add(&third, &runtime.config(&json!({})));
    one.serve(80);
    assert_eq!(third.ask("10.22.0.1:8080"), "10.22.0.1", "a neighbour comes by way of the host");
    let (code, text) = runtime.refused("ADD", Some(&other), &mapped(8080, 81));
    assert!(code != 0 && text.contains("8080") && text.contains("container 'one'"), "{text}");
    runtime.ok("DEL", &one, &mapped(8080, 80));
    runtime.add(&other, &mapped(8080, 81));
    other.serve(81);
    assert_eq!(third.ask("10.22.0.1:8080"), "10.22.0.1", "a neighbour comes by way of the host");
    runtime.ok(
        "CHECK",
        &third,
        &runtime.config(&json!({ "prevResult": {
        "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.22.0.3/24" }]
    } })),
    );
}

#[test]
fn a_port_without_an_address_is_published_where_the_network_says() {
    let (runtime, pod) = (Runtime::new(), Pod::new("one"));
    let mappings = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "TCP" }]);
    let config =
        json!({ "options": { "binding": "127.0.0.1" }, "runtimeConfig": { "portMappings": mappings } });
    runtime.add(&pod, &runtime.config(&config));
    let ports = runtime.host.with(|networks| {
        let network = networks.get("pods").unwrap().network.id;
        networks.endpoints(&network).unwrap().remove(0).endpoint.ports
    });
    assert_eq!(ports[0].address(), Some("127.0.0.1".parse().unwrap()));
}

#[test]
fn containers_that_are_connected_at_once_get_addresses_of_their_own() {
    let runtime = Runtime::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let pods: Vec<Pod> = names.into_iter().map(Pod::new).collect();
    let config = runtime.config(&json!({}));
    let mut commands: Vec<Command> =
        pods.iter().map(|pod| runtime.command("ADD", Some(pod), &config)).collect();
    let mut addresses: Vec<String> = thread::scope(|scope| {
        let host = &runtime.host;
        let running: Vec<_> =
            commands.iter_mut().map(|command| scope.spawn(move || host.run(command))).collect();
        let answers = running.into_iter().map(|running| running.join().unwrap());
        answers
            .map(|answer| {
                let result: Value = serde_json::from_str(&answer.out).unwrap();
                result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
            })
            .collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), pods.len(), "{addresses:?}");
}

#[test]
fn a_container_may_be_in_two_networks_and_in_a_chain_of_plugins() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    let first = runtime.add(&pod, &runtime.config(&json!({})));
    let side = json!({ "name": "side", "subnets": ["10.23.0.0/24"], "isDefaultGateway": false, "prevResult": first });
    let mut command = runtime.command("ADD", Some(&pod), &runtime.config(&side));
    let answer = runtime.host.run(command.env("CNI_IFNAME", "net1"));
    let result: Value = serde_json::from_str(&answer.out).unwrap();
    let names: Vec<_> = [0, 1].map(|at| result["interfaces"][at]["name"].clone()).into();
    assert_eq!(names, ["eth0", "net1"], "{answer:?}");
    assert_eq!(
        result["ips"][1],
        json!({ "address": "10.23.0.2/24", "gateway": "10.23.0.1", "interface": 1 })
    );
    assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    assert!(pod.ip("route").contains("default via 10.22.0.1 dev eth0"));
}

#[test]
fn a_runtime_hears_whether_containers_can_be_connected() {
    let runtime = Runtime::new();
    let answer = runtime.call("STATUS", None, &runtime.config(&json!({})));
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
    assert_eq!(runtime.host.names(&["-f", "type=custom"]), [""; 0], "a look makes nothing");
    let (code, text) = runtime.refused("STATUS", None, &runtime.config(&json!({ "driver": "macvlan" })));
    assert_eq!(code, 7, "{text}");
    let link = runtime.host.root().with_file_name("mica-cni");
    symlink(env!("CARGO_BIN_EXE_mica"), &link).unwrap();
    let (mut verb, mut link) = (Command::new(env!("CARGO_BIN_EXE_mica")), Command::new(link));
    for command in [verb.arg("cni"), &mut link] {
        let answer = runtime.host.run(command.env("CNI_COMMAND", "VERSION"));
        assert!(answer.out.contains("supportedVersions"), "{answer:?}");
    }
}

#[test]
fn any_driver_connects_a_container_as_far_as_it_can() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    runtime.host.ip("link add lan0 type veth peer name lan1");
    runtime.host.ip("link set lan0 up");
    runtime.host.ip("link set lan1 up");
    // Asked for one link, the kernel says whether it has a carrier now, and not a moment ago.
    ["lan0", "lan1"].iter().for_each(|link| drop(runtime.host.ip(&format!("link show {link}"))));
    let parent = json!({ "driver": "macvlan", "options": { "parent": "lan0" } });
    let config = runtime.config(&parent);
    let before = runtime.host.links();
    runtime.add(&one, &config);
    let result = runtime.add(&other, &config);
    one.serve(80);
    assert_eq!(other.ask("10.22.0.2:80"), "10.22.0.3");
    let mut checked = config.clone();
    checked["prevResult"] = result;
    runtime.ok("CHECK", &other, &checked);
    for pod in [&one, &other] {
        runtime.ok("DEL", pod, &config);
        assert_eq!(pod.ip("-o link").lines().count(), 1);
    }
    assert_eq!(runtime.host.links(), before);
    let mut ports = config;
    ports["runtimeConfig"] = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let (code, text) = runtime.refused("ADD", Some(&one), &ports);
    assert!(code == 7 && text.contains("ports"), "{text}");
    let quiet = runtime.config(&json!({ "name": "quiet", "driver": "none", "subnets": [] }));
    let result = runtime.add(&one, &quiet);
    assert_eq!(result, json!({ "cniVersion": "1.1.0", "routes": [], "dns": {} }));
    runtime.ok("DEL", &one, &quiet);
}
