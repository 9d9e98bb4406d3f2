//! `mica cni`, called as container runtimes call it: by a link in a directory of plugins, with an environment and a text on
//! standard input.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use mica_conformance::network::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Answer, Host};

/// A runtime of containers on a host of its own.
struct Runtime {
    host: Host,
    dir: TempDir,
}

/// A namespace that a runtime made for a container.
struct Pod {
    id: &'static str,
    namespace: Option<Namespace>,
    path: PathBuf,
}

impl Pod {
    fn new(id: &'static str) -> Self {
        let namespace = Namespace::new().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        Self { id, namespace: Some(namespace), path: path.into() }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> T {
        self.namespace.as_ref().unwrap().inside(work).unwrap()
    }

    fn ip(&self, arguments: &str) -> String {
        let output = self.inside(|| Command::new("ip").args(arguments.split(' ')).output());
        assert!(output.status.success(), "ip {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Answers every connection with the address that it came from.
    fn serve(&self, port: u16) {
        let listener = self.inside(|| TcpListener::bind(("0.0.0.0", port)));
        thread::spawn(move || {
            while let Ok((mut stream, from)) = listener.accept() {
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
        });
    }

    /// What a server answers to a connection from here.
    fn ask(&self, at: &str) -> String {
        self.inside(|| ask(at))
    }
}

fn ask(at: &str) -> std::io::Result<String> {
    let at: SocketAddr = at.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

impl Runtime {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_mica"), dir.path().join("mica-cni")).unwrap();
        Self { host: Host::new(), dir }
    }

    /// A configuration of network `pods`, with these fields beside the usual ones.
    fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "mica-cni",
            "root": self.host.root(),
            "subnets": ["10.22.0.0/24"],
            "ipv6": false,
        });
        for (name, value) in more.as_object().unwrap() {
            config[name] = value.clone();
        }
        config
    }

    fn command(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> Command {
        let input = self.dir.path().join("input");
        std::fs::write(&input, config.to_string()).unwrap();
        let mut command = Command::new(self.dir.path().join("mica-cni"));
        command.stdin(File::open(input).unwrap()).env("CNI_COMMAND", verb).env("CNI_PATH", self.dir.path());
        if let Some(pod) = pod {
            command.env("CNI_CONTAINERID", pod.id).env("CNI_IFNAME", "eth0").env("CNI_NETNS", &pod.path);
        }
        command
    }

    fn call(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> Answer {
        self.host.run(&mut self.command(verb, pod, config))
    }

    /// What a call prints; it must succeed.
    fn ok(&self, verb: &str, pod: &Pod, config: &Value) -> String {
        let answer = self.call(verb, Some(pod), config);
        assert_eq!(answer.status, Some(0), "{verb}: {answer:?}");
        answer.out
    }

    fn add(&self, pod: &Pod, config: &Value) -> Value {
        serde_json::from_str(&self.ok("ADD", pod, config)).unwrap()
    }

    /// Its code, and what it says; it must fail as the protocol has it.
    fn refused(&self, verb: &str, pod: Option<&Pod>, config: &Value) -> (u64, String) {
        told(&self.call(verb, pod, config))
    }

    /// What is in the host's kernel and in the records of endpoints.
    fn state(&self) -> String {
        let rules = self.host.run(Command::new("nft").args(["list", "ruleset"])).out;
        let connected = match self.host.mica(&["network", "inspect", "-f", "{{json .Containers}}", "pods"]) {
            Answer { status: Some(0), out, .. } => out,
            _ => String::new(),
        };
        format!("{}{rules}{connected}", self.host.links())
    }
}

fn told(answer: &Answer) -> (u64, String) {
    assert_eq!(answer.status, Some(1), "{answer:?}");
    let error: Value = serde_json::from_str(&answer.out).unwrap();
    assert!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&error["cniVersion"].as_str().unwrap()));
    (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
}

#[test]
fn a_container_is_connected_checked_and_disconnected() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let config = runtime.config(json!({}));
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
    let with_result = runtime.config(json!({ "prevResult": result }));
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
    runtime.add(&pod, &runtime.config(json!({ "options": { "mtu": 1400 } })));
    let shown = runtime.host.inspect("pods");
    assert_eq!(shown["IPAM"]["Config"], json!([{ "Subnet": "10.22.0.0/24", "Gateway": "10.22.0.1" }]));
    assert_eq!(shown["Options"], json!({ "mtu": "1400" }));
    assert_eq!(shown["Containers"]["shop,eth0"]["IPv4Address"], "10.22.0.2/24");
    let text = runtime.host.fails(&["network", "rm", "pods"]);
    assert!(text.contains("it is in use by 'shop'"), "{text}");
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    runtime.ok("DEL", &pod, &runtime.config(json!({})));
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
        let mut config = runtime.config(json!({ "subnets": [] }));
        config[field] = value;
        let (code, text) = runtime.refused("ADD", Some(&pod), &config);
        assert!(code == 7 && text.contains(&format!("with other {field} than")), "{text}");
        assert_eq!(runtime.refused("STATUS", None, &config).0, 7);
    }
    let result = runtime.add(&pod, &runtime.config(json!({ "subnets": [] })));
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
        let config = runtime
            .config(json!({ "cniVersion": version, "subnets": ["10.22.0.0/24", "fd22::/64"], "ipv6": true }));
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
            runtime.refused(verb, Some(&pod), &runtime.config(json!({ "cniVersion": version })));
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
    let config = runtime.config(json!({ "runtimeConfig": wishes, "dns": { "domain": "local" } }));
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
    let mut command = runtime.command("ADD", Some(&other), &runtime.config(json!({})));
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
        runtime.config(json!({ "runtimeConfig": { "portMappings": mappings } }))
    };
    runtime.add(&one, &mapped(8080, 80));
    runtime.add(&third, &runtime.config(json!({})));
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
        &runtime.config(json!({ "prevResult": {
        "interfaces": [{ "name": "eth0" }], "ips": [{ "address": "10.22.0.3/24" }]
    } })),
    );
}

#[test]
fn what_is_said_wrongly_is_refused_with_the_protocols_codes_and_leaves_nothing() {
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
        let (found, text) = runtime.refused("ADD", Some(&pod), &runtime.config(more.clone()));
        assert!(found == code && text.contains(part), "{more}: {found}, {text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let config = runtime.config(json!({}));
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
    let config = runtime.config(json!({}));
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
fn a_container_whose_namespace_is_gone_is_disconnected() {
    let runtime = Runtime::new();
    let kept = Pod::new("kept");
    let config = runtime.config(json!({}));
    runtime.add(&kept, &config);
    let before = runtime.state();
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    for named in [true, false] {
        let mut pod = Pod::new("gone");
        runtime.add(&pod, &runtime.config(json!({ "runtimeConfig": ports })));
        drop(pod.namespace.take());
        let mut command = runtime.command("DEL", Some(&pod), &config);
        if !named {
            command.env_remove("CNI_NETNS");
        }
        let answer = runtime.host.run(&mut command);
        assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
        assert_eq!(runtime.state(), before);
    }
    let changed = runtime.config(json!({ "driver": "weave", "ipam": {}, "subnets": "?" }));
    runtime.ok("DEL", &kept, &changed);
    assert_eq!(runtime.host.inspect("pods")["Containers"], json!({}));
    let nowhere = json!({ "cniVersion": "1.1.0", "name": "pods", "root": runtime.dir.path().join("none") });
    runtime.ok("DEL", &kept, &nowhere);
    assert!(!runtime.dir.path().join("none").exists());
}

#[test]
fn a_call_that_is_killed_leaves_what_the_next_one_takes_away() {
    let runtime = Runtime::new();
    let (kept, pod) = (Pod::new("kept"), Pod::new("one"));
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let config = runtime.config(json!({ "runtimeConfig": ports }));
    runtime.add(&kept, &runtime.config(json!({})));
    let before = runtime.state();
    for point in ["cni.recorded", "cni.up", "cni.attached"] {
        for next in ["DEL", "ADD"] {
            let answer =
                runtime.host.run(runtime.command("ADD", Some(&pod), &config).env("MICA_FAILPOINT", point));
            assert_eq!(answer.status, None, "{point}: {answer:?}");
            runtime.ok(next, &pod, &config);
            runtime.ok("DEL", &pod, &config);
            assert_eq!(runtime.state(), before, "{point}, {next}");
            assert_eq!(pod.ip("-o link").lines().count(), 1, "{point}, {next}");
        }
    }
    for point in ["network.detaching", "network.detached", "network.forgotten"] {
        runtime.add(&pod, &config);
        let answer =
            runtime.host.run(runtime.command("DEL", Some(&pod), &config).env("MICA_FAILPOINT", point));
        assert_eq!(answer.status, None, "{point}: {answer:?}");
        runtime.ok("DEL", &pod, &config);
        assert_eq!(runtime.state(), before, "{point}");
    }
}

#[test]
fn what_the_runtime_forgot_is_collected() {
    let runtime = Runtime::new();
    let pods = [Pod::new("one"), Pod::new("two"), Pod::new("three")];
    let config = runtime.config(json!({}));
    runtime.add(&pods[0], &config);
    let before = runtime.state();
    pods[1..].iter().for_each(|pod| drop(runtime.add(pod, &config)));
    assert_eq!(runtime.refused("GC", None, &config).0, 7);
    let valid = json!([{ "containerID": "one", "ifname": "eth0" }]);
    let answer = runtime.call("GC", None, &runtime.config(json!({ "cni.dev/valid-attachments": valid })));
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
    assert_eq!(runtime.state(), before);
    let answer = runtime.call("GC", None, &runtime.config(json!({ "cni.dev/valid-attachments": [] })));
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert_eq!(pods[0].ip("-o link").lines().count(), 1);
}

#[test]
fn what_a_runtime_never_disconnects_is_removed_by_a_repair() {
    let runtime = Runtime::new();
    let (kept, mut lost) = (Pod::new("kept"), Pod::new("lost"));
    let config = runtime.config(json!({}));
    runtime.add(&kept, &config);
    let before = runtime.state();
    runtime.add(&lost, &config);
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    drop(lost.namespace.take());
    let text = runtime.host.fails(&["network", "check"]);
    assert!(text.contains("container 'lost'") && text.contains("namespace is gone"), "{text}");
    let text = runtime.host.ok(&["network", "check", "--repair"]);
    assert!(text.contains("removed the endpoint of container 'lost'"), "{text}");
    assert_eq!(runtime.state(), before);
    assert_eq!(runtime.host.run(Command::new("nft").args(["flush", "ruleset"])).status, Some(0));
    assert!(runtime.host.mica(&["network", "check"]).err.contains("container 'kept'"));
    runtime.host.ok(&["network", "check", "--repair"]);
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    assert_eq!(runtime.state(), before);
}

#[test]
fn containers_that_are_connected_at_once_get_addresses_of_their_own() {
    let runtime = Runtime::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let pods: Vec<Pod> = names.into_iter().map(Pod::new).collect();
    let config = runtime.config(json!({}));
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
fn of_containers_that_want_a_port_at_once_one_gets_it() {
    let runtime = Runtime::new();
    let pods: Vec<Pod> = ["a", "b", "c", "d"].into_iter().map(Pod::new).collect();
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let config = runtime.config(json!({ "runtimeConfig": ports }));
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

#[test]
fn rules_that_were_flushed_come_back_for_all_with_the_next_container() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let result = runtime.add(&one, &runtime.config(json!({ "runtimeConfig": ports })));
    let checked = runtime.config(json!({ "prevResult": result }));
    assert_eq!(runtime.host.run(Command::new("nft").args(["flush", "ruleset"])).status, Some(0));
    assert_eq!(runtime.refused("CHECK", Some(&one), &checked).0, 103);
    runtime.add(&other, &runtime.config(json!({})));
    runtime.ok("CHECK", &one, &checked);
    one.serve(80);
    assert_eq!(other.ask("10.22.0.1:8080"), "10.22.0.1");
}

#[test]
fn a_container_may_be_in_two_networks_and_in_a_chain_of_plugins() {
    let runtime = Runtime::new();
    let pod = Pod::new("one");
    let first = runtime.add(&pod, &runtime.config(json!({})));
    let side = json!({ "name": "side", "subnets": ["10.23.0.0/24"], "isDefaultGateway": false, "prevResult": first });
    let mut command = runtime.command("ADD", Some(&pod), &runtime.config(side));
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
    let answer = runtime.call("STATUS", None, &runtime.config(json!({})));
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
    assert_eq!(runtime.host.names(&["-f", "type=custom"]), [""; 0], "a look makes nothing");
    let (code, text) = runtime.refused("STATUS", None, &runtime.config(json!({ "driver": "macvlan" })));
    assert_eq!(code, 7, "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mica"));
    let answer = runtime.host.run(command.arg("cni").env("CNI_COMMAND", "VERSION"));
    assert!(answer.out.contains("supportedVersions"), "{answer:?}");
}
