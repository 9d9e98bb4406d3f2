//! What cannot be: a code, one clear line, and nothing left.

use std::fs::File;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use super::{Pod, Runtime, told};
use crate::host::Answer;

#[test]
fn what_is_configured_wrongly_is_refused_with_the_protocols_codes_and_leaves_nothing() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    let ports = |mapping: Value| json!({ "runtimeConfig": { "portMappings": [mapping] } });
    for (more, code, part) in [
        (json!({ "name": "" }), 7, "no 'name'"),
        (json!({ "name": "a/b" }), 7, "only [a-zA-Z0-9]"),
        (json!({ "name": "host" }), 100, "the engine's own"),
        (json!({ "subnet": "10.0.0.0/8" }), 2, "unsupported field 'subnet' with the value"),
        (json!({ "ipam": { "type": "host-local" } }), 2, "host-local"),
        (json!({ "subnets": ["10.22.0.1/24"] }), 7, "'subnets': '10.22.0.1/24' is an address inside"),
        (json!({ "subnets": "10.22.0.0/24" }), 7, "'subnets'"),
        (json!({ "subnets": ["127.0.0.0/24"] }), 101, "interface 'lo'"),
        (json!({ "driver": "weave" }), 7, "those that exist are: bridge, none, macvlan"),
        (json!({ "options": { "colour": "red" } }), 7, "those of driver 'bridge' are"),
        (json!({ "options": { "mtu": [1] } }), 7, "'mtu' must be a text, a number"),
        (json!({ "firewall": "pf" }), 7, "pf"),
        (
            json!({ "isDefaultGateway": false, "runtimeConfig": { "portMappings": [
            { "hostPort": 80, "containerPort": 80 }] } }),
            7,
            "leave them out",
        ),
        (json!({ "runtimeConfig": { "bandwidth": {} } }), 7, "unknown field `bandwidth`"),
        (json!({ "runtimeConfig": { "ips": ["10.23.0.9"] } }), 7, "10.23.0.9"),
        (json!({ "runtimeConfig": { "ips": ["here"] } }), 7, "'here' is no address"),
        (json!({ "runtimeConfig": { "mac": "01:00:00:00:00:01" } }), 7, "cannot be the address of one"),
        (json!({ "runtimeConfig": { "aliases": ["a b"] } }), 7, "a b"),
        (ports(json!({ "hostPort": 0, "containerPort": 80 })), 7, "hostPort 0"),
        (ports(json!({ "hostPort": 70000, "containerPort": 80 })), 7, "70000"),
        (ports(json!({ "hostPort": 80, "containerPort": 80, "protocol": "icmp" })), 7, "icmp"),
        (ports(json!({ "hostPort": 80, "containerPort": 80, "hostIP": "::1" })), 7, "take 127.0.0.1"),
        (ports(json!({ "hostPort": 80, "containerPort": 80, "hostIP": "here" })), 7, "'here' is no address"),
    ] {
        let (found, text) = runtime.refused("ADD", Some(&pod), &runtime.config(&more));
        assert!(found == code && text.contains(part), "{more}: {found}, {text}");
        assert!(!text.contains('\n'), "{text}");
    }
    assert_eq!(runtime.host.links().lines().count(), 1);
}

#[test]
fn what_the_environment_says_wrongly_is_refused_by_the_name_of_the_variable() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    let config = runtime.config(&json!({}));
    for (name, value, part) in [
        ("CNI_COMMAND", "UPDATE", "CNI_COMMAND: 'UPDATE' is unknown"),
        ("CNI_CONTAINERID", "", "CNI_CONTAINERID: it is not set"),
        ("CNI_CONTAINERID", "../x", "CNI_CONTAINERID: '../x' is no id"),
        ("CNI_IFNAME", "a-name-of-16-byte", "CNI_IFNAME"),
        ("CNI_NETNS", "/proc/1/status", "is no network namespace"),
        ("CNI_NETNS", "/proc/self/ns/net", "is the host's own network namespace"),
        ("CNI_NETNS", "/none", "CNI_NETNS: open network namespace '/none'"),
        ("CNI_ARGS", "MAC=x", "CNI_ARGS: 'x' is no MAC address"),
    ] {
        let answer = runtime.host.run(runtime.command("ADD", Some(&pod), &config).env(name, value));
        let (code, text) = told(&answer);
        assert!(code == 4 && text.contains(part), "{name}={value}: {code}, {text}");
    }
    let mut command = runtime.command("ADD", Some(&pod), &config);
    let input = runtime.dir.path().join("input");
    for (text, code) in [("{", 6), ("[]", 6), ("", 1)] {
        std::fs::write(&input, text).unwrap();
        command.stdin(File::open(&input).unwrap());
        assert_eq!(told(&runtime.host.run(&mut command)).0, code, "{text}");
    }
    assert_eq!(runtime.host.links().lines().count(), 1);
    assert_eq!(pod.ip("-o link").lines().count(), 1);
}

#[test]
fn an_interface_that_is_there_is_not_replaced() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    let config = runtime.config(&json!({}));
    pod.ip("link add eth0 type veth peer name eth9");
    let (_, text) = runtime.refused("ADD", Some(&pod), &config);
    assert!(text.contains("eth0"), "{text}");
    pod.ip("link del eth0");
    runtime.add(&pod, &config);
    let before = runtime.state();
    let (code, text) = runtime.refused("ADD", Some(&pod), &config);
    assert!(code == 101 && text.contains("DEL comes before another ADD"), "{text}");
    assert_eq!(runtime.state(), before);
}

#[test]
fn of_containers_that_want_a_port_at_once_one_gets_it() {
    let runtime = Runtime::new();
    let pods: Vec<Pod> = ["a", "b", "c", "d"].into_iter().map(Pod::new).collect();
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let config = runtime.config(&json!({ "runtimeConfig": ports }));
    let mut commands: Vec<Command> =
        pods.iter().map(|pod| runtime.command("ADD", Some(pod), &config)).collect();
    let answers: Vec<Answer> = thread::scope(|scope| {
        let host = &runtime.host;
        let running: Vec<_> =
            commands.iter_mut().map(|command| scope.spawn(move || host.run(command))).collect();
        running.into_iter().map(|running| running.join().unwrap()).collect()
    });
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != Some(0)).map(told).collect();
    assert_eq!(refused.len(), 3, "{answers:?}");
    assert!(refused.iter().all(|(_, text)| text.contains("8080")), "{refused:?}");
    assert_eq!(runtime.host.inspect("pods")["Containers"].as_object().unwrap().len(), 1);
}
